"""Settings of the method beyond the attribution: the penalty's, the controls', variants, hints, a trainer alone."""

import importlib.util
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from baselines import METHODS
from benchmarks.mechanism.report import comparisons, conditions_table, findings, page, reliance
from iapo.alignment.block_scores import attributed_sums
from iapo.alignment.penalty import penalties_of_calls
from iapo.config.method_registry import resolve
from iapo.config.schema import (
    AlignmentConfig,
    AttributionConfig,
    Config,
    ConfigError,
    HardwareConfig,
    TeacherConfig,
    TrainConfig,
    Variant,
    load_config,
)
from iapo.data.mini_world.hints import figure_labels, hint_of, with_hint, with_hint_rate
from iapo.data.prompts import prompt_messages
from iapo.data.selection import training_prompts
from iapo.models.loading import save_model
from iapo.models.processor import IMAGE_TOKEN
from iapo.rewards.alignment import alignment_reward
from iapo.rewards.tool_use import constant_penalty, wrong_call_penalty
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import PromptInputs, ToolTurn, turn_ids
from iapo.teacher.build_cache import TeacherPass
from iapo.teacher.cache import CacheHit, TeacherCache, cached_sums
from iapo.teacher.fingerprint import fingerprint, hash_processor, hash_weights
from iapo.teacher.turns import TurnWriter
from iapo.teacher.writer import CacheWriter
from iapo.tools.parsing import parse_turn, render_call
from iapo.tools.registry import tools_for
from iapo.training.attribution_mixin import AlignmentTrainer
from iapo.training.checkpoints import metrics_file
from iapo.training.run import train
from iapo.training.trainer import Sources
from iapo.types import BlockAttribution, CallStatus, Example, ToolCall

ROOT = Path(__file__).parents[2]
P, R, HALF = [1.0, 0, 0, 0], [0, 1.0, 0, 0], [1.0, 1.0, 0, 0]


def reward(student: list[Any], teacher: list[Any], keys: list[str], **more: Any) -> list[float]:
    return alignment_reward([[]] * len(student), student, teacher, keys, **more)


def test_a_cut_penalty_and_its_bound() -> None:
    settings = AlignmentConfig(smoothing=1e-12, max_divergence=0.25, missing_call="bound")
    assert reward([P, None], [R, R], ["a", "a"], config=settings) == pytest.approx([-0.25, -0.25])


def test_penalties_are_standardised_over_the_step() -> None:
    settings = AlignmentConfig(smoothing=1e-12, normalise="batch")
    found = torch.tensor(reward([P, P, HALF], [P, R, R], ["a", "a", "b"], config=settings))
    assert found.mean().item() == pytest.approx(0, abs=1e-9) and found.std(correction=0).item() == pytest.approx(1)
    assert found[0] > found[2] > found[1]
    assert reward([P, P], [P, P], ["a", "a"], config=settings) == [0, 0]


def test_rows_may_have_different_numbers_of_blocks() -> None:
    found = penalties_of_calls([[1.0, 0, 0, 0, 1.0], P], [[1.0, 0, 0, 0, 1.0], R], AlignmentConfig(smoothing=1e-12))
    assert found == pytest.approx([0, 1])


def message(labels: list[str], name: str = "focus_on_rows_with_mask") -> list[dict[str, Any]]:
    call = {"function": {"name": name, "arguments": {"rows_to_focus_on": labels}}}
    return [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "."}]


def test_the_planted_penalty_grows_with_the_distance_from_the_right_call() -> None:
    no_call = [{"role": "assistant", "content": "?"}]
    completions = [message(["a"]), message(["b"]), message(["a"]), message(["a"]), no_call]
    status: list[CallStatus] = ["executed", "executed", "failed", "malformed", "none"]
    assert wrong_call_penalty(completions, [["a"]] * 5, status) == [0, -0.5, -0.5, -1, -1]
    assert wrong_call_penalty(completions, [[]] * 5, status) == [None] * 5


def test_the_constant_penalty_is_constant_within_groups_and_differs_between() -> None:
    prompts = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in "aabb"]
    found = constant_penalty([[]] * 4, prompts)
    assert found[0] == found[1] != found[2] == found[3] and all(-1 <= value <= 0 for value in found)


def turn(prompt: PromptInputs) -> ToolTurn:
    return ToolTurn(prompt, [1], "")


def test_a_call_is_contrasted_with_the_others_of_its_prompt() -> None:
    one, other = (PromptInputs([1] * 4, {}, [0, 1, 2, 3]) for _ in range(2))
    signed = torch.tensor([[4.0, 1, 1, 1], [2.0, 1, 1, 1], [9.0, 9, 9, 9]])
    nothing = torch.zeros(3)
    result = BlockAttribution(signed=signed, l1=signed, convergence_delta=nothing, delta_f=nothing, log_p=nothing)
    settings = AlignmentConfig(contrastive=True)
    found = attributed_sums([turn(one), turn(one), turn(other)], result, settings)
    assert found == [[2, 0, 0, 0], [-2, 0, 0, 0], [9, 9, 9, 9]]
    hit = CacheHit((3.0, 1, 1, 1), (5.0, 5, 5, 5), "exact", (1.0, 1, 1, 1))
    assert cached_sums(turn(one), hit, settings) == [2, 0, 0, 0]
    assert cached_sums(turn(one), hit, AlignmentConfig(aggregation="l1")) == [5, 5, 5, 5]


def test_variants_and_controls_change_their_own_settings_only() -> None:
    config = Config(
        profile="t",
        methods=("iapo", "iapo_shuffled", "fine"),
        variants={"fine": Variant("iapo_shuffled", {"attribution": {"blocks": "labels"}})},
    )
    method, resolved = resolve("fine", config, METHODS)
    assert method.uses_teacher and resolved.alignment.teacher == "shuffled"
    assert resolved.attribution == replace(config.attribution, blocks="labels")
    assert resolve("iapo", config, METHODS)[1] == config
    assert resolved.teacher_attribution.n_steps == config.teacher.n_steps
    with pytest.raises(ConfigError, match="data"):
        broken = replace(config, variants={"fine": Variant("iapo", {"data": {"seed": 1}})})
        resolve("fine", broken, METHODS)


def test_the_paper_s_preset_is_valid_and_labels_what_is_assumed() -> None:
    text = (ROOT / "config/presets/paper_settings.yaml").read_text()
    mini = yaml.safe_load((ROOT / "config/mini.yaml").read_text())
    config = load_config({**mini, **yaml.safe_load(text)})
    assert config.attribution.baseline == "zero" and config.alignment.divergence.startswith("kl")
    values = [line for line in text.splitlines() if ": " in line and not line.startswith("#")]
    assert values and all(
        any(f"# {word}" in line or "assumed" in line for word in ("paper", "digest")) for line in values
    )


def test_hints_are_right_as_often_as_asked(test_examples: list[Example]) -> None:
    hinted = with_hint_rate(test_examples, 0.8, seed=0)
    right = [hint_of(example) == example.focus_labels[0] for example in hinted]
    chance = sum(1 / len(figure_labels(example)) for example in hinted) / len(hinted)
    assert sum(right) / len(right) == pytest.approx(0.8 + 0.2 * chance, abs=0.08)
    assert hinted == with_hint_rate(test_examples, 0.8, seed=0) != with_hint_rate(test_examples, 0.8, seed=1)
    twice = with_hint(with_hint(test_examples[0], "one"), "two")
    assert hint_of(twice) == "two" and twice.context.count("hint") == 1
    assert all(hint_of(example) is None for example in test_examples)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any], test_examples: list[Example]) -> Path:
    """A saved policy and its own cache over two prompts a set."""
    directory = tmp_path_factory.mktemp("ready")
    save_model(*tiny, directory / "model")
    config = Config(profile="test", teacher=TeacherConfig(sampled_calls=1))
    address = fingerprint(
        hash_weights(directory / "model"), hash_processor(directory / "model"), config.teacher_attribution, "code"
    )
    writer = CacheWriter(directory / "cache", address)
    TeacherPass(*tiny, config, writer).run(training_prompts(test_examples, 2))
    return directory


@pytest.mark.filterwarnings("ignore")
def test_the_example_of_the_readme_trains(ready: Path, data_root: Path, tmp_path: Path) -> None:
    path = ROOT / "docs/own_trainer.py"
    assert len(path.read_text().splitlines()) <= 40
    spec = importlib.util.spec_from_file_location("own_trainer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.train(ready / "model", ready / "cache", data_root, tmp_path, steps=1)


@pytest.mark.gpu_run
@pytest.mark.filterwarnings("ignore")
def test_the_differentiable_loss_does_not_depend_on_the_number_of_passes(
    ready: Path, tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = tiny[1]
    image = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def text_of(ids: list[int]) -> tuple[int, ...]:
        return tuple(token for token in ids if token != image)

    calls = {
        text_of(encode_prompt(processor, prompt_messages(example), example.figure.kind).input_ids): ToolCall(
            tools_for(example.figure.kind)[0].name, (figure_labels(example)[0],)
        )
        for example in test_examples
    }

    def call_a_label(self: Any, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        written = [calls.get(text_of(ids)) for ids in prompt_ids]  # none for a second turn's prompts
        return [turn_ids(processor.tokenizer, render_call(call) if call else "1") for call in written], None

    # The same calls in either number of passes; without the outcome the gradient is the loss's alone.
    monkeypatch.setattr(AlignmentTrainer, "_generate_single_turn", call_a_label)
    teacher = CacheHit((3.0, 1, 1, 1), (5.0, 5, 5, 5), "exact", (1.0, 1, 1, 1))
    monkeypatch.setattr(AlignmentTrainer, "_compared_with", lambda *_: teacher)
    settings = TrainConfig(steps=1, groups_per_step=2, group_size=2, prompts_per_set=1, outcome_weight=0.0)
    found = []
    for passes in (1, 4):
        config = Config(
            profile="test", train=settings, alignment=AlignmentConfig(weight=0.0, loss_weight=1.0),
            hardware=HardwareConfig(rollouts_per_forward=4 // passes),
        )  # fmt: skip
        (row,) = train(
            METHODS["iapo"], config, test_examples, start=ready / "model", sources=Sources(cache=ready / "cache"),
            run_dir=tmp_path / f"work{passes}", output=tmp_path / f"out{passes}", seed=0,
        )  # fmt: skip
        found.append(row)
    one, four = found
    assert one["grad_norm"] > 1e-4
    for name in ("alignment/loss", "grad_norm"):
        assert four[name] == pytest.approx(one[name], rel=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("attribution", "alignment", "too_long", "attributed"),
    [
        ({"max_tokens": 10}, {}, 2.0, 0.0),
        ({}, {}, 0.0, 1.0),
    ],
    ids=["over the length limit", "every group"],
)
def test_which_groups_are_attributed(
    ready: Path, attribution: dict[str, Any], alignment: dict[str, Any], too_long: float, attributed: float,
    test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = Config(
        profile="test",
        attribution=AttributionConfig(**attribution),
        alignment=AlignmentConfig(**alignment),
    )
    chosen: list[float] = []
    original = AlignmentTrainer._attributed_rollouts

    def counted(self: AlignmentTrainer) -> set[int]:
        found = original(self)
        chosen.append(len(found) / len(self.tool_turns))
        return found

    monkeypatch.setattr(AlignmentTrainer, "_attributed_rollouts", counted)
    settings = replace(config.train, steps=1, groups_per_step=2, group_size=2, prompts_per_set=1)
    train(
        METHODS["iapo"], replace(config, train=settings), test_examples, start=ready / "model",
        sources=Sources(cache=ready / "cache"),
        run_dir=tmp_path / "work", output=tmp_path / "out", seed=0,
    )  # fmt: skip
    (row,) = metrics_file(tmp_path / "work").rows()
    assert chosen == [attributed] and row["attribution/groups_too_long"] == too_long
    assert math.isfinite(row["reward"])


def test_the_cache_says_right_of_calls_that_would_work(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = next(e for e in test_examples if e.test_set == "vwtq" and e.focus_labels[0] in e.figure.boxes["rows"])
    own = render_call(ToolCall("focus_on_rows_with_mask", example.focus_labels))
    monkeypatch.setattr(TurnWriter, "_write", lambda *_: [own])
    config = Config(profile="test", teacher=TeacherConfig(sampled_calls=1, enumerated="tools"))
    TeacherPass(*tiny, config, CacheWriter(tmp_path / "cache", "f")).run([example])
    rows = TeacherCache(tmp_path / "cache").rows
    # The columns' tools are enumerated with the same labels, which they do not have.
    assert {(row.call.family, row.correct) for row in rows} == {("rows", True), ("columns", False)}


def test_a_killed_teacher_pass_goes_on_and_a_damaged_shard_is_rebuilt_alone(
    ready: Path, tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iapo.teacher import build_cache as module

    monkeypatch.setattr(module, "PROMPTS_TOGETHER", 2)
    config = Config(profile="test", teacher=TeacherConfig(sampled_calls=1))
    prompts = training_prompts(test_examples, 1)

    def scored(writer: CacheWriter, some: list[Example]) -> int:
        counted: list[int] = []
        original = TeacherPass._rows

        def rows(self: TeacherPass, chunk: Any, chosen: Any) -> Any:
            counted.append(len(chunk))
            return original(self, chunk, chosen)

        with monkeypatch.context() as patch:
            patch.setattr(TeacherPass, "_rows", rows)
            TeacherPass(*tiny, config, writer).run(some)
        return sum(counted)

    directory = tmp_path / "cache"
    assert scored(CacheWriter(directory, "f"), prompts[:4]) == 4
    assert scored(CacheWriter(directory, "f"), prompts) == len(prompts) - 4
    before = {row.call_text: row for row in TeacherCache(directory).rows}
    shard = sorted(directory.glob("*.parquet"))[0]
    shard.write_bytes(b"broken")
    writer = CacheWriter(directory, "f")
    assert len(writer.damaged) == 1 and shard.name in writer.damaged[0]
    assert scored(writer, prompts) == 2
    assert {row.call_text for row in TeacherCache(directory).rows} == set(before)


def test_calls_that_students_made_are_filled_in_once(
    tiny: tuple[Any, Any], test_examples: list[Example], tmp_path: Path
) -> None:
    config = Config(profile="test", teacher=TeacherConfig(sampled_calls=1))
    writer = CacheWriter(tmp_path, "f")
    teacher = TeacherPass(*tiny, config, writer)
    prompts = training_prompts(test_examples, 2)
    teacher.run(prompts)
    cache = TeacherCache(tmp_path)
    keys = teacher.keys(prompts)
    key = next((key for key in keys.values() if cache.teacher_turn(key)), None)
    text = '<tool_call>{"name": "focus_on_rows_with_draw", "arguments": {"rows_to_focus_on": ["new one"]}}</tool_call>'
    call = parse_turn(text).calls[0]
    made = {other: [call, call] for other in keys.values()}
    added = teacher.fill(prompts, made, cache)
    assert added == sum(cache.teacher_turn(other) is not None for other in keys.values())
    assert teacher.fill(prompts, made, TeacherCache(tmp_path)) == 0
    if key is not None:
        hit = TeacherCache(tmp_path).lookup(key, call)
        assert hit is not None and hit.kind == "exact"
        assert TeacherCache(tmp_path).teacher_turn(key) == cache.teacher_turn(key)


def test_the_study_finds_a_planted_effect_and_no_other() -> None:
    rng = random.Random(0)
    rows, metrics = [], []
    rate = {"cold": 0.4, "vtool_r1": 0.4, "iapo": 0.4, "iapo_shuffled": 0.4, "planted_penalty": 0.7}
    for condition, p in rate.items():
        for seed in range(3):
            for item in range(150):
                right = rng.random() < p
                share = 0.5 * right + 0.3 * rng.random()
                rows.append(
                    {"condition": condition, "seed": seed, "example_id": f"{item}", "cluster": f"{item}",
                     "score": float(right), "follows_request": right, "follows_hint": not right,
                     "flips_with_request": right, "flips_with_hint": not right, "share_P": 1 - share,
                     "share_R": share, "share_I": 0.0, "share_T": 0.0}
                )  # fmt: skip
            metrics.append(
                {"condition": condition, "seed": seed, "step": 1, "advantage/alignment_reward_share": 0.2,
                 "advantage/alignment_reward_std": 0.1, "advantage/outcome_reward_std": 0.4}
            )  # fmt: skip
    records, config = pd.DataFrame(rows), Config(profile="t", methods=tuple(rate)[1:])
    compared = comparisons(records, config)
    score = compared[compared["outcome"] == "score"].set_index(["condition", "control"])["verdict"]
    assert score["planted_penalty", "vtool_r1"] == "more"
    assert score["iapo", "vtool_r1"] == score["iapo", "iapo_shuffled"] == "no difference found"
    relied = reliance(records)
    assert relied["flips_with_request"]["within_policy"] == 1 and relied["flips_with_hint"]["across_policies"] > 0.9
    assert "planted_penalty" in findings(compared, relied)[0]
    table = conditions_table(records, pd.DataFrame(metrics)).set_index("condition")
    assert table.loc["iapo", "penalty_std"] == pytest.approx(0.1) and table.loc["iapo", "seeds"] == 3


def test_rounding_is_no_finding_and_one_seed_is_said() -> None:
    rows = [
        {"condition": condition, "seed": 0, "example_id": f"{item}", "cluster": f"{item}", "score": item % 2,
         "follows_request": item % 2, "share_R": 0.3 + item / 100 + extra}
        for condition, extra in {"vtool_r1": 0.0, "constant_penalty": 1e-9}.items()
        for item in range(40)
    ]  # fmt: skip
    config = Config(profile="t", methods=("vtool_r1", "constant_penalty"), seeds=(0,))
    compared = comparisons(pd.DataFrame(rows), config)
    assert set(compared["verdict"]) == {"no difference found"}
    table = pd.DataFrame({"condition": ["vtool_r1"], "seeds": [1], "score": [0.5]})
    assert "One seed" in page(table, compared, [], config)
    assert "One seed" not in page(table, compared, [], replace(config, seeds=(0, 1)))
