"""Whole runs with the teacher's cache: what they leave out, and what they keep through a kill."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baselines import METHODS
from iapo.config.method_registry import Method
from iapo.config.schema import AlignmentConfig, Config, TrainConfig
from iapo.data.mini_world.hints import figure_labels
from iapo.data.prompts import prompt_messages
from iapo.data.selection import training_prompts
from iapo.models.loading import save_model
from iapo.models.processor import IMAGE_TOKEN
from iapo.rollout.call_sampling import MISSES
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import prompt_key, turn_ids
from iapo.teacher.rows import CacheRow
from iapo.teacher.writer import CacheWriter
from iapo.tools.parsing import render_call
from iapo.tools.registry import tools_for
from iapo.training.attribution_mixin import AlignmentTrainer
from iapo.training.checkpoints import checkpoint_of, clean
from iapo.training.run import train
from iapo.training.trainer import Sources
from iapo.types import Example, ToolCall

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = TrainConfig(steps=3, groups_per_step=2, group_size=2, prompts_per_set=1, save_every=1)


@pytest.fixture
def ready(
    tiny: tuple[Any, Any], trained_looking: Any, test_examples: list[Example], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """A policy and a cache of its prompts, one call each; every rollout of the policy calls a label of its figure."""
    processor = tiny[1]
    image = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    save_model(trained_looking, processor, tmp_path / "start")
    rows: list[CacheRow] = []
    labels: dict[tuple[int, ...], list[ToolCall]] = {}

    def text_of(ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token for token in ids if token != image)

    for number, example in enumerate(training_prompts(test_examples, SETTINGS.prompts_per_set)):
        encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
        tool = tools_for(example.figure.kind)[0].name
        calls = [ToolCall(tool, (label,)) for label in figure_labels(example)[:3]]
        labels[text_of(encoded.input_ids)] = calls
        key = prompt_key(encoded.input_ids, encoded.pixel_values, encoded.image_grid_thw)
        sums = (1.0, 2.0 + number, 3.0, 1.0)
        text = render_call(calls[0])
        rows.append(CacheRow(key, calls[0], sums, sums, -2.0, 1.5, 0.0, "sampled", 0, None, text, None))
    CacheWriter(tmp_path / "cache", "f").add(rows, prompts=[row.prompt_key for row in rows], candidates="c")

    def call_a_label(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        turns = []
        for i, ids in enumerate(prompt_ids):
            calls = labels.get(text_of(ids))  # none for a second turn's prompts
            turns.append(render_call(calls[(self.state.global_step + i) % len(calls)]) if calls else "1")
        return [turn_ids(processor.tokenizer, turn) for turn in turns], None

    monkeypatch.setattr(AlignmentTrainer, "_generate_single_turn", call_a_label)
    return tmp_path


def run(
    method: Method, folder: Path, ready: Path, examples: list[Example], loss_weight: float = 0.0
) -> list[dict[str, float]]:
    alignment = AlignmentConfig(from_step=2, loss_weight=loss_weight)
    config = Config(profile="test", train=SETTINGS, alignment=alignment)
    return train(
        method, config, examples, start=ready / "start", sources=Sources(cache=ready / "cache"),
        run_dir=folder, output=folder / "out", seed=0,
    )  # fmt: skip


def weights(folder: Path) -> bytes:
    return (folder / "out/model.safetensors").read_bytes()


def test_nothing_is_attributed_before_the_penalty_counts_and_all_is_the_same_from_then_on(
    ready: Path, test_examples: list[Example]
) -> None:
    staged = METHODS["iapo_two_stage"]
    rows = run(staged, ready / "staged", ready, test_examples)
    throughout = run(replace(staged, trainer=METHODS["iapo"].trainer), ready / "throughout", ready, test_examples)
    attributed = [[row["step"] for row in each if "attribution/distinct_calls" in row] for each in (rows, throughout)]
    assert attributed == [[3], [1, 2, 3]]
    for row, same in zip(rows, throughout, strict=True):
        assert {name: same[name] for name in row if "seconds" not in name and name != "step_time"} == {
            name: value for name, value in row.items() if "seconds" not in name and name != "step_time"
        }
    assert rows[-1]["rewards/alignment_reward/mean"] < 0 == rows[0]["rewards/alignment_reward/mean"]
    assert (
        weights(ready / "staged") == weights(ready / "throughout") != (ready / "start/model.safetensors").read_bytes()
    )


def test_the_loss_counts_from_the_same_step_as_the_penalty_and_counts_no_call_twice(
    ready: Path, test_examples: list[Example]
) -> None:
    staged = run(METHODS["iapo_two_stage"], ready / "staged", ready, test_examples, loss_weight=0.1)
    assert [row["alignment/loss"] > 0 for row in staged] == [False, False, True]
    run(METHODS["iapo"], ready / "without", ready, test_examples)
    run(METHODS["iapo"], ready / "with", ready, test_examples, loss_weight=1e-12)
    assert (ready / "with" / MISSES).read_bytes() == (ready / "without" / MISSES).read_bytes()


def test_the_misses_of_a_resumed_run_are_those_of_an_undisturbed_one(ready: Path, test_examples: list[Example]) -> None:
    undisturbed, killed = ready / "undisturbed", ready / "killed"
    run(METHODS["iapo"], undisturbed, ready, test_examples)
    misses = (undisturbed / MISSES).read_bytes()
    after_two = (checkpoint_of(undisturbed, 2) / MISSES).read_bytes()
    assert misses.count(b"\n") > after_two.count(b"\n") > 0
    # Killed after step 3's row and before its checkpoint was whole.
    shutil.copytree(undisturbed, killed)
    (killed / MISSES).unlink()
    (checkpoint_of(killed, 3) / "trainer_state.json").unlink()
    for folder in (killed, undisturbed):
        clean(folder)
        run(METHODS["iapo"], folder, ready, test_examples)
        assert (folder / MISSES).read_bytes() == misses and weights(folder) == weights(undisturbed)
