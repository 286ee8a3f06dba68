"""Exercises of the cold start: what they show, how often, and what they leave to be found in the request."""

import copy
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from iapo.cold_start.demonstrations import ReadingExercises, calling_exercise
from iapo.cold_start.stages import assistant_labels, collate, run_stage
from iapo.config.mini_world import ColdStartConfig
from iapo.config.schema import DataConfig
from iapo.data.mini_world.figures import draw, is_smudged
from iapo.data.mini_world.gapminder import split_tables
from iapo.data.mini_world.world import _grid, draw_samples
from iapo.data.prompts import open_image
from iapo.data.store import read_split
from iapo.tools.parsing import render_call
from iapo.types import TEST_SETS, Example, ToolCall


@pytest.fixture(scope="module")
def examples(data_root: Path) -> list[Example]:
    return read_split(data_root, "train", TEST_SETS)


def focus_box(example: Example) -> tuple[int, int, int, int]:
    (label,) = example.focus_labels
    return next(boxes[label] for boxes in example.figure.boxes.values() if label in boxes)


@pytest.mark.parametrize("test_set", TEST_SETS)
def test_a_smudge_is_found_where_it_is_drawn_and_nowhere_else(test_set: str, examples: list[Example]) -> None:
    """As often as it was drawn: all figures without, all with, and two in five of the data's."""
    tables = split_tables(0, unit=10)["train"]
    boxes = next(focus_box(e) for e in examples if e.test_set == test_set)
    for rate, expected in ((0.0, False), (1.0, True)):
        samples = draw_samples(random.Random(0), tables, test_set, 30, DataConfig(smudge_rate=rate))
        assert {is_smudged(draw(_grid(sample)), boxes) for sample in samples} == {expected}


def test_reading_exercises_can_be_read_and_every_answer_is_as_frequent(examples: list[Example]) -> None:
    smudged = {e.example_id for e in examples if is_smudged(open_image(e), focus_box(e))}
    assert 0.2 < len(smudged) / len(examples) < 0.4
    exercises = ReadingExercises(examples, seed=0)
    kept = [e for each in exercises._by_answer.values() for e in each]
    assert {e.example_id for e in kept} == {e.example_id for e in examples} - smudged
    answers = Counter(exercises(index).messages[-1]["content"] for index in range(1100))
    # Chi-squared with ten degrees of freedom: 29.6 is its quantile at .999.
    expected = 1100 / len(answers)
    assert len(answers) == 11 and sum((count - expected) ** 2 / expected for count in answers.values()) < 29.6


def test_a_calling_exercise_is_the_prompt_s_text_and_the_right_call(
    tiny: tuple[Any, Any], examples: list[Example]
) -> None:
    _, processor = tiny
    chosen = [next(e for e in examples if e.test_set == name) for name in ("charxiv", "h_bar")]
    exercises = [calling_exercise(example) for example in chosen]
    for exercise, example in zip(exercises, chosen, strict=True):
        prompt, call = exercise.messages
        assert [part["text"] for part in prompt["content"]] == [example.context + "\n", example.request]
        (family,) = [f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes]
        assert call["content"] == render_call(ToolCall(f"focus_on_{family}_with_mask", example.focus_labels))
    batch = collate(exercises, processor)
    assert "pixel_values" not in batch
    learned = [processor.tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert all(example.focus_labels[0] in text for example, text in zip(chosen, learned, strict=True))
    assert (assistant_labels(batch["input_ids"], processor.tokenizer) == batch["labels"]).all()


def test_every_other_reading_exercise_shows_the_cells_of_the_label_alone(examples: list[Example]) -> None:
    exercises = ReadingExercises(examples, seed=0)
    for index in range(40):
        (picture,) = [part["image"] for part in exercises(index).messages[1]["content"] if part["type"] == "image"]
        cells = picture.width // 28 * (picture.height // 28)
        assert picture.width % 28 == picture.height % 28 == 0
        # A mask leaves nothing but the label's cells, so what is cut away is empty.
        assert cells <= 3 if index % 2 == 0 else cells > 3


@pytest.mark.parametrize(("until_loss", "steps"), [(None, 6), (0.0, 6), (1e9, 1)])
def test_a_stage_ends_once_it_is_learned(
    until_loss: float | None,
    steps: int,
    tiny: tuple[Any, Any],
    examples: list[Example],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    trained: list[int] = []
    model.register_forward_hook(lambda *_: trained.append(1))
    run_stage(
        model,
        lambda index: calling_exercise(examples[index]),
        lambda items: collate(items, processor),
        6,
        2,
        ColdStartConfig(),
        "test",
        until_loss=until_loss,
    )
    assert len(trained) == steps
    # Only where it may end early is the time left a bound.
    assert ("at most 0 s left" in capsys.readouterr().err) == (until_loss == 0.0)
