"""Timings: side by side in one process, medians with their spread. Written to a table, asserted nowhere."""
