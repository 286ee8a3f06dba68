"""Performance measurements: alternating timings in one process, reported as medians with quartiles.

They are written to a table; no test asserts them.
"""
