"""Tables and figures of a run, computed from its records and metrics alone, without torch."""
