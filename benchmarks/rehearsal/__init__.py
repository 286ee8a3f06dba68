"""What the rehearsal of a GPU run needs in place of downloads: data and models in the true layouts, made here."""
