"""Dev accuracy along the way, which changes no policy, and the mean of the last steps' weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from iapo.config.method_registry import Method, RewardTerm
from iapo.config.schema import Config, ConfigError, TrainConfig, load_config
from iapo.models.loading import save_model
from iapo.models.weight_average import WeightAverage
from iapo.rewards import dev_accuracy as module
from iapo.rewards.dev_accuracy import dev_accuracy
from iapo.training.checkpoints import clean
from iapo.training.run import train
from iapo.types import Example

SHORT = TrainConfig(steps=3, groups_per_step=2, group_size=2, prompts_per_set=1, save_every=1)
MEASURED = replace(SHORT, dev_every=2, dev_per_set=1)


def many_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that an untrained policy already gets in different amounts."""
    return [float(sum(ids)) for ids in completion_ids]


TOKENS = Method("many_tokens", "for tests", lambda config: [RewardTerm(many_tokens, weight=1.0)])
Rows = list[dict[str, float]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any]) -> Path:
    path = tmp_path_factory.mktemp("start") / "model"
    save_model(*tiny, path)
    return path


def run(folder: Path, settings: TrainConfig, start: Path, examples: list[Example]) -> Rows:
    clean(folder)
    return train(
        TOKENS, Config(profile="test", train=settings), examples, start=start, dev=examples,
        run_dir=folder, output=folder / "out", seed=0,
    )  # fmt: skip


def policy(folder: Path) -> bytes:
    return (folder / "out/model.safetensors").read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_dev_accuracy_is_kept_changes_no_policy_and_survives_a_kill(
    tmp_path: Path, start: Path, test_examples: list[Example]
) -> None:
    plain = run(tmp_path / "plain", SHORT, start, test_examples)
    rows = run(tmp_path / "measured", MEASURED, start, test_examples)
    assert [row["step"] for row in plain] == [1, 2, 3] and [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["step"] for row in rows if "dev/accuracy" in row] == [0, 2, 3]
    assert all(0 <= row["dev/right_calls"] <= 1 for row in rows if "dev/right_calls" in row)
    assert policy(tmp_path / "plain") == policy(tmp_path / "measured")
    # A kill after step 3's row and before its checkpoint was whole.
    (tmp_path / "measured/checkpoints/checkpoint-3/trainer_state.json").unlink()
    again = run(tmp_path / "measured", MEASURED, start, test_examples)
    kept = [{name: value for name, value in row.items() if name == "step" or "dev/" in name} for row in (*rows, *again)]
    assert kept[:4] == kept[4:] and policy(tmp_path / "plain") == policy(tmp_path / "measured")


@pytest.mark.filterwarnings("ignore")
def test_the_policy_is_the_mean_of_the_last_steps_also_after_a_kill(
    tmp_path: Path, start: Path, test_examples: list[Example]
) -> None:
    folder, settings = tmp_path / "averaged", replace(SHORT, average_last=2)
    run(tmp_path / "plain", SHORT, start, test_examples)
    run(folder, settings, start, test_examples)
    steps = [load_file(folder / f"checkpoints/checkpoint-{step}/model.safetensors") for step in (2, 3)]
    found = load_file(folder / "out/model.safetensors")
    assert found.keys() == load_file(tmp_path / "plain/out/model.safetensors").keys() == steps[0].keys()
    for name, value in found.items():
        assert torch.allclose(value, (steps[0][name] + steps[1][name]) / 2, atol=1e-7), name
    whole = policy(folder)
    assert whole != policy(tmp_path / "plain")
    (folder / "checkpoints/checkpoint-3/trainer_state.json").unlink()
    run(folder, settings, start, test_examples)
    assert policy(folder) == whole
    # What is finished is not trained again, and comes to the same.
    run(folder, settings, start, test_examples)
    assert policy(folder) == whole


def test_a_running_mean_keeps_precision_and_what_is_no_float(tmp_path: Path) -> None:
    average = WeightAverage()
    states = [{"w": torch.tensor([float(i)], dtype=torch.bfloat16), "n": torch.tensor(i)} for i in range(4)]
    for step, state in enumerate(states):
        average.add(state)
        average.save(tmp_path / "average", step)
    assert sorted(path.stem for path in (tmp_path / "average").iterdir()) == ["2", "3"]
    loaded = WeightAverage.load(tmp_path / "average", 2)
    loaded.add(states[3])
    for each in (average, loaded):
        found = each.weights(states[0])
        assert found["w"].item() == 1.5 and found["w"].dtype == torch.bfloat16 and found["n"] == 3
    with pytest.raises(FileNotFoundError, match="train again"):
        WeightAverage.load(tmp_path / "average", 9)


def test_sets_weigh_alike_and_the_first_call_counts(
    tiny: tuple[Any, Any], test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_set = {name: [e for e in test_examples if e.test_set == name] for name in ("h_bar", "v_bar")}
    chosen = [*by_set["h_bar"][:3], *by_set["v_bar"][:1]]

    def answered(model: Any, processor: Any, chunk: list[Example], **_: Any) -> list[Any]:
        torch.rand(3)
        assert not model.training
        return [_Answer(example, right=example.test_set == "v_bar") for example in chunk]

    monkeypatch.setattr(module, "roll_out", answered)
    model = tiny[0].train()
    state = torch.get_rng_state()
    found = dev_accuracy(model, tiny[1], chosen, batch_size=2, turn_tokens=8)
    assert (found.accuracy, found.right_calls) == (0.5, 0.5)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    model.eval()


def test_a_call_that_failed_is_not_right(test_examples: list[Example]) -> None:
    answer = _Answer(test_examples[0], right=True)
    assert module.calls_right(answer, test_examples[0])  # type: ignore[arg-type]
    answer.call_ok = False
    assert not module.calls_right(answer, test_examples[0])  # type: ignore[arg-type]


class _Answer:
    def __init__(self, example: Example, *, right: bool) -> None:
        from iapo.types import ToolCall

        self.texts = [f"FINAL ANSWER: {example.answer}" if right else "FINAL ANSWER: none of them"]
        labels = tuple(example.focus_labels) if right else ("another",)
        # A second call that is right does not make the first one so.
        self.call_ok = True
        self.calls = [ToolCall("tool", labels), ToolCall("tool", tuple(example.focus_labels))]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"train": {"steps": 3, "average_last": 4}}, "train.average_last: found 4 of 3 steps"),
        (
            {"train": {"average_last": 4}, "hardware": {"processes": 2, "strategy": "fsdp2"}},
            "train.average_last: found 4 with shards",
        ),
    ],
)
def test_what_cannot_be_averaged_is_said_beforehand(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config({"profile": "x", **raw})


def test_dev_accuracy_without_questions_is_an_error(tmp_path: Path, start: Path, test_examples: list[Example]) -> None:
    with pytest.raises(ValueError, match=r"train\.dev_every"):
        train(
            TOKENS, Config(profile="test", train=MEASURED), test_examples, start=start,
            run_dir=tmp_path, output=tmp_path / "out", seed=0,
        )  # fmt: skip
