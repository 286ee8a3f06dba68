"""What each method is held against in the study of hints."""

from benchmarks.mechanism.report import controls
from iapo.config.schema import Config, Variant


def test_a_method_of_one_s_own_is_held_against_the_reference() -> None:
    variants = {"turn": Variant("iapo", against=("iapo_shuffled", "elsewhere"))}
    config = Config(
        profile="test", methods=("vtool_r1", "iapo", "iapo_shuffled", "short_calls", "turn"), variants=variants
    )
    assert controls(config) == {
        "iapo": ("vtool_r1", "iapo_shuffled"),
        "short_calls": ("vtool_r1",),
        "turn": ("iapo_shuffled",),
    }
