"""What is measured about the teacher, its cache and the attribution, besides the table."""
