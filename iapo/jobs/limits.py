"""Memory and time that a cluster is asked for, for every kind of job, from the estimate. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from iapo.jobs.estimate import Estimate
from iapo.jobs.stages import Kind

_MEMORY_MARGIN = 1.25
_TIME_MARGIN = 1.5
_SLOW_DISK_MINUTES = 30


@dataclass(frozen=True)
class Limits:
    """What a cluster may end a job for: Snakemake's ``mem_mb`` and ``runtime``."""

    mem_mb: int
    """Of the machine's own memory, for all of the job's processes, megabytes."""
    runtime: int
    """Minutes."""


SMALL = Limits(mem_mb=16_000, runtime=240)
"""For jobs with tiny models."""


def limits(kind: Kind, needs: Estimate | None) -> Limits:
    """Return the limits of the jobs of one kind: the largest one's needs, and a margin.

    Args:
        kind: of jobs.
        needs: what the run needs; None for tiny models.
    """
    jobs = [stage for stage in needs.stages if stage.kind == kind] if needs else []
    if not jobs:
        return SMALL
    memory, hours = max(stage.host_gb for stage in jobs), max(stage.hours for stage in jobs)
    return Limits(math.ceil(1e3 * memory * _MEMORY_MARGIN), math.ceil(60 * hours * _TIME_MARGIN) + _SLOW_DISK_MINUTES)
