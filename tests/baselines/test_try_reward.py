"""A reward before training: what its own trainer's rollouts say, without a change of the policy."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from baselines import METHODS
from baselines.try_reward import NotBuiltError, Recorder, main, oracle_shares, try_reward
from iapo.config.method_registry import RewardTerm
from iapo.config.schema import Config, load_config
from iapo.models.loading import save_model

CONFIG: dict[str, Any] = {
    "profile": "sparse",
    "student": {"habits": {"rare": {"demonstrations": {}}}},
    "train": {"groups_per_step": 6, "group_size": 2, "max_completion_length": 8},
    "methods": [],
    "grids": {"g": {"methods": ["vtool_r1"], "settings": {"group": {}}, "starts": ["rare"]}},
}


@pytest.fixture
def config() -> Config:
    return load_config(CONFIG)


def call(label: str) -> list[dict[str, Any]]:
    arguments = {"rows_to_focus_on": [label]}
    function = {"name": "focus_on_rows_with_mask", "arguments": arguments}
    return [{"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}]


def test_the_auc_is_over_the_rollouts_of_one_prompt() -> None:
    def term(completions: list[Any], **_: Any) -> list[float | None]:
        # Right calls get more in both groups; the offset of group b must not count.
        return [1.0, 0.5, 0.0, -4.0, -5.0, None]

    recorder = Recorder()
    method = recorder.listen(replace(METHODS["vtool_r1"], rewards=lambda config: [RewardTerm(term, 0.5, "flat")]))
    (heard,) = method.rewards(Config(profile="t"))
    assert (heard.function.__name__, heard.weight, heard.form) == ("term", 0.5, "flat")
    turns = [call("x"), call("y"), call("y"), call("x"), call("y"), call("x")]
    columns = {"focus_labels": [["x"]] * 6, "call_status": ["executed"] * 6, "example_id": list("aaabbb")}
    values = heard.function(completions=turns, **columns)
    assert values[0] == 1.0 and recorder.auc("term") == 1.0


@pytest.mark.filterwarnings("ignore")
def test_a_trial_rolls_out_each_prompt_and_says_what_the_term_does(
    config: Config, tiny: tuple[Any, Any], data_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").symlink_to(data_root)
    save_model(*tiny, tmp_path / "models/student/rare/start0")
    rates = tmp_path / "student_calls/rare/start0.json"
    rates.parent.mkdir(parents=True)
    rates.write_text(json.dumps({"right_rate": 0.006}))
    (row,) = try_reward("planted_penalty", config, tmp_path, prompts_per_set=1)
    assert (row["start"], row["right calls"], row["term"]) == ("rare", "0.6%", "wrong_call_penalty")
    # An untrained policy neither calls nor answers: every group is flat.
    assert (row["flat outcomes"], row["flat groups"], row["share"], row["AUC"]) == ("100%", "100%", "0%", "–")


def test_of_two_stages_the_one_is_tried_in_which_the_penalty_counts(
    config: Config, tiny: tuple[Any, Any], data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").symlink_to(data_root)
    for folder in ("models/student/rare/start0", "teacher/start0/seed0/model"):
        save_model(*tiny, tmp_path / folder)
    for name, content in (("student_calls/rare/start0", {"right_rate": 0.1}), ("teacher/start0/cache/main.stats", {})):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    steps: list[int] = []

    def trained(method: Any, config: Config, *_: Any, **__: Any) -> list[dict[str, float]]:
        steps.append(config.alignment.from_step)
        raise InterruptedError

    monkeypatch.setattr("iapo.training.run.train", trained)
    with pytest.raises(InterruptedError):
        try_reward("iapo_two_stage", config, tmp_path, prompts_per_set=1)
    assert steps == [0]


def test_what_is_missing_is_named_in_one_line_with_the_command(config: Config, tmp_path: Path) -> None:
    with pytest.raises(NotBuiltError) as error:
        try_reward("iapo", config, tmp_path, prompts_per_set=1)
    said = str(error.value)
    assert "3 files missing" in said and "\n" not in said
    assert f"make it: snakemake {tmp_path}/teacher/start0/cache/main.stats.json" in said
    with pytest.raises(SystemExit, match=r"found 'nobody'; known methods: .* writes baselines/nobody\.py"):
        main(["nobody"])


def test_the_oracle_s_share_of_finished_runs_is_read_by_start(tmp_path: Path) -> None:
    assert oracle_shares(tmp_path, "iapo") == {}
    rows = [
        {"name": f"iapo_{setting}_rare", "method": "iapo", "setting": setting, "start": "rare", "oracle_share": share}
        | {"oracle_share_low": 0.1, "oracle_share_high": 0.9}
        for setting, share in (("batch", 0.5), ("none", None))
    ]
    (tmp_path / "mechanism").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "mechanism/cells.csv", index=False)
    assert oracle_shares(tmp_path, "iapo") == {"rare": "batch 50% [10%, 90%]"}
