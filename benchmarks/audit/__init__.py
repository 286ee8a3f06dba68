"""Audits of the method itself: the teacher, its cache, and the accuracy of the attribution."""
