"""Losses from the teacher: their mathematics, and that a step's loss is the same however many passes it takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baselines import METHODS
from iapo.config.method_registry import resolve
from iapo.config.schema import Config, HardwareConfig, TrainConfig
from iapo.data.prompts import answer_text, prompt_messages
from iapo.data.selection import dataset_row, training_prompts
from iapo.models.loading import save_model
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import PromptInputs, ToolTurn, prompt_key, turn_ids
from iapo.teacher.rows import CacheRow
from iapo.teacher.writer import CacheWriter
from iapo.tools.parsing import render_call
from iapo.training.distillation_mixin import is_right, reverse_kl, shared_vocabulary, turn_logits
from iapo.training.run import train
from iapo.training.trainer import Sources
from iapo.types import Example, ToolCall

SETTINGS = TrainConfig(steps=1, groups_per_step=2, group_size=2, prompts_per_set=1, warmup_steps=0)
SETS = ("v_bar", "vwtq")


def test_the_kl_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer

    student, teacher = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.9, 0.1], [0.25, 0.75]])
    found = reverse_kl(student.log(), teacher.log() + 3.0)
    by_hand = 0.5 * torch.log(torch.tensor(0.5 / 0.9)) + 0.5 * torch.log(torch.tensor(0.5 / 0.1))
    assert found[0].item() == pytest.approx(by_hand.item())
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(7, 11, generator=generator) for _ in range(2))
    # TRL divides by the number of rows.
    assert reverse_kl(one, other).mean().item() == pytest.approx(
        GKDTrainer.generalized_jsd_loss(one[None], other[None], labels=torch.zeros(1, 7), beta=1).item(), rel=1e-5
    )
    assert (reverse_kl(one, other) > 0).all() and reverse_kl(one, other).sum() != reverse_kl(other, one).sum()


def test_a_student_that_equals_its_teacher_has_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(5, 9, generator=generator)
    student = (teacher + 2.0).requires_grad_()
    loss = reverse_kl(student, teacher).sum()
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and student.grad is not None
    assert student.grad.abs().max().item() < 1e-6
    other = torch.randn(5, 9, generator=generator).requires_grad_()
    reverse_kl(other, teacher).sum().backward()
    assert other.grad is not None and other.grad.abs().max() > 0.01


@pytest.fixture(scope="module")
def questions(test_examples: list[Example]) -> list[Example]:
    """One question of each of two sets, whose prompts differ in length and image."""
    return [each for each in training_prompts(test_examples, 1) if each.test_set in SETS]


def prompt_inputs(processor: Any, example: Example) -> PromptInputs:
    encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
    types = [[int(token == processor.image_token_id) for token in encoded.input_ids]]
    fields = {"pixel_values": encoded.pixel_values, "image_grid_thw": encoded.image_grid_thw}
    return PromptInputs(encoded.input_ids, fields | {"mm_token_type_ids": types})


def test_turns_of_one_batch_have_the_logits_that_each_has_alone(
    trained_looking: Any, tiny: tuple[Any, Any], questions: list[Example]
) -> None:
    processor = tiny[1]
    texts = ["one", "FINAL ANSWER: 67", "the rows"]
    prompts = [prompt_inputs(processor, each) for each in questions]
    ids = [turn_ids(processor.tokenizer, text) for text in texts]
    turns = [ToolTurn(prompts[i % 2], ids[i], texts[i]) for i in range(3)]
    assert len({len(turn.ids) for turn in turns}) > 1 and len({len(prompt.input_ids) for prompt in prompts}) == 2
    with torch.no_grad():
        found = turn_logits(trained_looking, processor.tokenizer, turns)
        for turn, logits in zip(turns, found, strict=True):
            fields, start = turn.prompt.fields, len(turn.prompt.input_ids)
            alone = trained_looking(
                input_ids=torch.tensor([turn.prompt.input_ids + turn.ids]),
                mm_token_type_ids=torch.tensor([fields["mm_token_type_ids"][0] + [0] * len(turn.ids)]),
                pixel_values=fields["pixel_values"],
                image_grid_thw=fields["image_grid_thw"],
            ).logits[0, start - 1 : -1]
            assert logits.shape == alone.shape == (len(turn.ids), logits.shape[1])
            assert torch.allclose(logits, alone, atol=1e-4)


class Words:
    """A tokenizer's vocabulary."""

    def __init__(self, *words: str) -> None:
        self._ids = {word: i for i, word in enumerate(words)}

    def get_vocab(self) -> dict[str, int]:
        return self._ids


def test_a_teacher_of_another_vocabulary_is_refused_in_one_line() -> None:
    same: Any = Words("a", "b")
    assert shared_vocabulary(same, same) == 2
    swapped: Any
    for swapped in (Words("b", "a"), Words("a", "b", "c")):
        with pytest.raises(ValueError, match=r"not the student's; expected the same.*teacher_calls") as error:
            shared_vocabulary(same, swapped)
        assert "\n" not in str(error.value)


def one_step(
    method: str, examples: list[Example], folder: Path, settings: TrainConfig, *, passes: int = 1, **sources: Path
) -> dict[str, float]:
    """Metrics of the last step of a run from the model in ``folder/model``."""
    size = settings.groups_per_step * settings.group_size // passes
    config = Config(profile="test", train=settings, hardware=HardwareConfig(rollouts_per_forward=size))
    chosen, resolved = resolve(method, config, METHODS)
    run_dir = folder / f"run{len(list(folder.iterdir()))}"
    return train(
        chosen, resolved, examples, start=folder / "model", run_dir=run_dir, output=run_dir / "out", seed=0,
        sources=Sources(**sources),
    )[-1]  # fmt: skip


# So cold that the rollouts of a group are equal, and count as often as they were made.
ONLY = replace(SETTINGS, outcome_weight=0.0, temperature=0.01)


def test_a_step_on_the_kl_is_that_of_several_passes_and_none_for_an_equal_teacher(
    tmp_path: Path, tiny: tuple[Any, Any], trained_looking: Any, questions: list[Example]
) -> None:
    save_model(*tiny, tmp_path / "model")
    save_model(trained_looking, tiny[1], tmp_path / "teacher")
    one = one_step("teacher_kl", questions, tmp_path, ONLY, teacher=tmp_path / "teacher")
    four = one_step("teacher_kl", questions, tmp_path, ONLY, passes=4, teacher=tmp_path / "teacher")
    assert one["distillation/loss"] > 0.01 and one["grad_norm"] > 0.01
    for name in ("distillation/loss", "distillation/tokens", "grad_norm"):
        assert four[name] == pytest.approx(one[name], rel=1e-3)
    itself = one_step("teacher_kl", questions, tmp_path, ONLY, teacher=tmp_path / "model")
    assert itself["distillation/loss"] == pytest.approx(0, abs=1e-6) and itself["grad_norm"] < 1e-5


def cached(processor: Any, example: Example, call: ToolCall, **changes: Any) -> CacheRow:
    encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
    key = prompt_key(encoded.input_ids, encoded.pixel_values, encoded.image_grid_thw)
    sums = (1.0, 0.0, 0.0, 0.0)
    said = answer_text(example.answer)
    row = CacheRow(key, call, sums, sums, -2.0, 1.5, 0.0, "sampled", 0, None, render_call(call), said)
    return replace(row, **changes)


def calls_of(example: Example) -> list[ToolCall]:
    """Three calls that differ in length or label."""
    family = next(iter(example.figure.boxes))
    labels = list(example.figure.boxes[family])
    return [ToolCall(f"focus_on_{family}_with_mask", chosen) for chosen in ((labels[0],), (labels[1],), (*labels[:2],))]


def test_a_step_on_the_teacher_s_calls_has_the_loss_of_its_right_ones(
    tmp_path: Path, tiny: tuple[Any, Any], questions: list[Example]
) -> None:
    model, processor = tiny
    save_model(model, processor, tmp_path / "model")
    example, other = questions
    right, wrong, enumerated = calls_of(example)
    rows = [
        cached(processor, example, right),
        cached(processor, example, wrong, answer_text=answer_text("no such answer")),
        cached(processor, example, enumerated, source="enumerated", answer_text=None),
        cached(processor, other, calls_of(other)[0], answer_text=None),
    ]
    CacheWriter(tmp_path / "cache", "f").add(rows, prompts=sorted({row.prompt_key for row in rows}), candidates="c")
    turn = ToolTurn(prompt_inputs(processor, example), turn_ids(processor.tokenizer, render_call(right)), "")
    with torch.no_grad():
        (logits,) = turn_logits(model, processor.tokenizer, [turn])
    by_hand = -sum(row[i].item() for row, i in zip(logits.log_softmax(-1), turn.ids, strict=True)) / len(turn.ids)
    cache = tmp_path / "cache"
    found = one_step("teacher_calls_only", questions, tmp_path, SETTINGS, passes=4, cache=cache)
    assert found["distillation/loss"] == pytest.approx(by_hand, rel=1e-4) and found["grad_norm"] > 0.01
    assert found["distillation/tokens"] == len(turn.ids) and found["distillation/prompts_with_calls"] == 0.5
    later = one_step("teacher_calls", questions, tmp_path, replace(SETTINGS, steps=3, learning_rate=3e-3), cache=cache)
    assert later["distillation/loss"] < by_hand - 0.5


def test_a_call_is_right_by_the_answer_that_followed_it(tiny: tuple[Any, Any], questions: list[Example]) -> None:
    example = questions[0]
    row = cached(tiny[1], example, calls_of(example)[0])
    assert is_right(row, dataset_row(example))
    assert not is_right(replace(row, answer_text=answer_text("no such answer")), dataset_row(example))
    assert not is_right(replace(row, answer_text=None), dataset_row(example))


def test_a_cache_without_the_teacher_s_own_calls_is_refused(
    tmp_path: Path, tiny: tuple[Any, Any], questions: list[Example]
) -> None:
    save_model(*tiny, tmp_path / "model")
    row = cached(tiny[1], questions[0], calls_of(questions[0])[0], source="filled", answer_text=None)
    CacheWriter(tmp_path / "cache", "f").add([row], prompts=[row.prompt_key], candidates="c")
    with pytest.raises(ValueError, match="found no call of its own among 1 rows"):
        one_step("teacher_calls", questions, tmp_path, SETTINGS, cache=tmp_path / "cache")
    with pytest.raises(ValueError, match="pass its cache directory"):
        one_step("teacher_calls", questions, tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="pass its pretrained directory"):
        one_step("teacher_kl", questions, tmp_path, SETTINGS)
