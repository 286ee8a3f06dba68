"""Snakemake's command line, with the Slurm executor asking for its jobs' states every second.

The executor waits ten seconds longer after each answer without news, which is right for a cluster and slow in a test.
"""

import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

RemoteExecutor.next_seconds_between_status_checks = property(lambda executor: 1.0, lambda executor, seconds: None)

sys.exit(main())
