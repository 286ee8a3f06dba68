"""The rehearsal of a GPU run: stand-ins for the downloaded data and models in their real layouts, and its verdict."""
