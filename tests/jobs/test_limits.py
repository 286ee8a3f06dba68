"""What a cluster is asked for covers what the estimate says that jobs need."""

from iapo.jobs.estimate import Estimate
from iapo.jobs.limits import SMALL, limits
from iapo.jobs.stages import Stage

STAGES = (
    Stage("policy", "train methods", 3, 4, 40, 100, 2, 1),
    Stage("policy", "train methods with attribution", 3, 4, 50, 120, 3, 1),
    Stage("cache", "cache", 1, 1, 26, 30, 10, 5),
)


def test_the_largest_job_of_a_kind_has_a_margin() -> None:
    needs = Estimate(STAGES, 0, "")
    asked = limits("policy", needs)
    assert asked.mem_mb > 120_000 and asked.runtime > 3 * 60
    assert limits("cache", needs).runtime > 10 * 60


def test_tiny_models_ask_for_little() -> None:
    assert limits("policy", None) == SMALL and limits("first_stage", Estimate(STAGES, 0, "")) == SMALL
