"""What each method is held against in the study of hints, and how sure the differences are."""

from pathlib import Path

import pandas as pd

from benchmarks.hints_page import hints_block
from benchmarks.mechanism.report import comparisons, controls, findings, page
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


def records(cluster_of: dict[int, str]) -> pd.DataFrame:
    """Two conditions of two seeds; iapo is right on the second half of 40 questions, too."""
    return pd.DataFrame(
        [
            {"condition": condition, "seed": seed, "example_id": f"{i:02d}", "cluster": cluster_of[i]}
            | {"score": float(i < 10 or (condition == "iapo" and i % 2)), "follows_request": 1.0, "share_R": 0.5}
            for condition in ("vtool_r1", "iapo")
            for seed in (0, 1)
            for i in range(40)
        ]
    )


def test_questions_on_one_label_are_no_independent_ones() -> None:
    config = Config(profile="test", methods=("vtool_r1", "iapo"))
    # The same answers; odd questions, which alone differ, ask for labels of their own or for one between them.
    apart, together = (
        comparisons(records({i: of(i) for i in range(40)}), config).set_index("outcome").loc["score"]
        for of in (lambda i: str(i), lambda i: f"label {i % 4}")
    )
    assert apart["delta"] == together["delta"] > 0
    assert together["high"] - together["low"] > 1.5 * (apart["high"] - apart["low"])


def test_what_shares_tell_of_reliance_is_found_on_the_page_that_the_study_writes(tmp_path: Path) -> None:
    config = Config(profile="test", methods=("vtool_r1", "iapo"))
    compared = comparisons(records({i: str(i) for i in range(40)}), config)
    facts = {"share": "share_R", "policies": 4, "across_policies": 0.5}
    facts |= dict.fromkeys(("within_policy", "within_policy_low", "within_policy_high"), 0.6)
    table = pd.DataFrame({"condition": ["iapo"], "seeds": [2], "score": [0.5]})
    text = page(table, compared, findings(compared, {"flips_with_request": facts}), config)
    for name in ("mechanism", "mechanism_amd"):
        (tmp_path / f"{name}.md").write_text(text)
    assert hints_block("mechanism", tmp_path).count("Share R against following an edited request: r = +0.50") == 2
