"""What surrounds a workflow job: checks before it starts, the GPUs that it may use, its processes, its cost.

Nothing here computes a result, and nothing imports torch.
"""

from iapo.jobs.preflight import PreflightError, check_start
from iapo.jobs.workflow_job import job

__all__ = ["PreflightError", "check_start", "job"]
