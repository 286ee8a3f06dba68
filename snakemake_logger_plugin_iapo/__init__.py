"""What Snakemake loads for ``--logger iapo``: it finds loggers by the names of top-level packages."""

from iapo.jobs.run_output import LogHandler

__all__ = ["LogHandler"]
