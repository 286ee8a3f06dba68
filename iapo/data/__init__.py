"""Data: real tables drawn small in ReFocus's raw layout, and the ingest that reads such a layout."""
