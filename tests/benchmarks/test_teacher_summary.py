"""Which teacher's verdict counts where several have a cache."""

from benchmarks.audit.teachers import Asked, summary
from iapo.alignment.informativeness import informativeness
from iapo.rollout.call_sampling import SampledCall

CALLS = [SampledCall(f"prompt{i}", rollout, "", rollout == 0) for i in range(20) for rollout in range(4)]


def asked(right: float, wrong: float) -> Asked:
    """A teacher with one penalty for right calls and another for wrong ones."""
    penalties = [right if call.correct else wrong for call in CALLS]
    found = informativeness(penalties, [call.correct for call in CALLS], [call.example_id for call in CALLS])
    return Asked(penalties, found)


TEACHERS = {0: asked(0.0, 1.0), 1: asked(1.0, 0.0), 2: asked(0.5, 0.5)}


def test_the_least_informative_teacher_with_a_cache_counts() -> None:
    found = summary(TEACHERS, CALLS, [0, 1])
    assert found["teacher_seed"] == 1 and found["verdict"] == "not" and found["sentence"].startswith("not")


def test_teachers_that_are_only_asked_do_not_count() -> None:
    found = summary(TEACHERS, CALLS, [0])
    assert (found["teacher_seed"], found["verdict"], set(found["teachers"])) == (0, "informative", {"0", "1", "2"})
