"""VTool-R1's two turns with Qwen2.5-VL's true vocabulary: what the policy is shown, and what becomes of its blocks."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from benchmarks.rehearsal.qwen import true_processor
from benchmarks.rehearsal.released import PROMPT, QWEN_TEMPLATE
from iapo.rollout import legacy_turns
from iapo.rollout.encoding import EncodedPrompt
from iapo.rollout.legacy_turns import PLACEHOLDER, check_template, legacy_prompt, roll_out_legacy
from iapo.rollout.two_turn import Rollout
from iapo.types import TEST_SETS, Example, ToolCall

ANSWER = "ANSWER: it is 12. FINAL ANSWER: 12. TERMINATE"


@pytest.fixture(scope="module")
def processor() -> Any:
    """As a download of Qwen2.5-VL has it."""
    processor = true_processor()
    processor.chat_template = processor.tokenizer.chat_template = QWEN_TEMPLATE
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
    return processor


@pytest.fixture(scope="module")
def example_of(test_examples: list[Example]) -> dict[str, Example]:
    return {each.test_set: each for each in reversed(test_examples)}


def block(code: str) -> str:
    return f"THOUGHT 0: look closer.\nACTION 0:\n```python\n{code}\n```"


def focus(example: Example, family: str, mode: str = "draw") -> str:
    """Call a table tool on a label that the figure has."""
    label = next(iter(next(labels for labels in example.figure.boxes.values() if labels)))
    return f"display(focus_on_{family}_with_{mode}(image_1, [{label!r}], {family}_bbox))"


class Scripted:
    """Writes given turns in place of a model, and keeps the prompts that it is shown."""

    def __init__(self, processor: Any, turns: Sequence[str]) -> None:
        self._tokenizer, self._turns = processor.tokenizer, list(turns)
        self.shown: list[list[EncodedPrompt]] = []

    def turn(
        self, _model: object, _processor: object, prompts: Sequence[EncodedPrompt], **_: object
    ) -> list[list[int]]:
        self.shown.append(list(prompts))
        written, self._turns = self._turns[: len(prompts)], self._turns[len(prompts) :]
        return [[*self._tokenizer(text)["input_ids"], self._tokenizer.eos_token_id] for text in written]

    def where(
        self, model: object, processor: object, prompts: dict[int, EncodedPrompt], _: int
    ) -> dict[int, list[int]]:
        return dict(zip(prompts, self.turn(model, processor, list(prompts.values())), strict=True)) if prompts else {}


def answered(
    monkeypatch: pytest.MonkeyPatch, processor: Any, examples: Sequence[Example], *turns: str
) -> tuple[list[Rollout], Scripted]:
    scripted = Scripted(processor, turns)
    monkeypatch.setattr(legacy_turns, "generate_turn", scripted.turn)
    monkeypatch.setattr(legacy_turns, "generate_where", scripted.where)
    model: Any = None
    return roll_out_legacy(model, processor, examples, template=PROMPT, turn_tokens=64), scripted


@pytest.mark.parametrize("test_set", TEST_SETS)
def test_the_prompt_names_the_figure_s_labels_in_the_template(example_of: dict[str, Example], test_set: str) -> None:
    example = example_of[test_set]
    text = legacy_prompt(example, f"\n{PLACEHOLDER} \n\ntools\n")
    assert text.startswith(f"# USER REQUEST #: {example.request}\n# USER Bounding Box Info: ")
    assert text.endswith("# USER IMAGE stored in image_1, as PIL image. \n\ntools")
    families = {"h_bar": "x y", "v_bar": "x y"}.get(test_set, "columns rows")
    for family in (f"{each}_values" if len(each) == 1 else each for each in families.split()):
        assert str(list(example.figure.boxes.get(family, {}))) in text  # type: ignore[call-overload]
        assert f"{family}_bbox" in text


@pytest.mark.parametrize("template", ["", "no place", PLACEHOLDER * 2])
def test_a_template_without_one_place_for_the_request_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="times, expected once"):
        check_template(template)


def test_a_table_s_block_is_carried_out_and_both_images_are_shown(
    monkeypatch: pytest.MonkeyPatch, processor: Any, example_of: dict[str, Example]
) -> None:
    example = example_of["vwtq"]
    made_up = block(focus(example, "rows")) + "\nOBSERVATION: made up.\nFINAL ANSWER: 99. TERMINATE"
    (rollout,), scripted = answered(monkeypatch, processor, [example], made_up, ANSWER)
    assert rollout.texts == [made_up, ANSWER] and rollout.called and rollout.call_ok and not rollout.truncated
    assert rollout.calls == [ToolCall("focus_on_rows_with_draw", (next(iter(example.figure.boxes["rows"])),))]
    (first,), (second,) = scripted.shown
    assert first.image_grid_thw.shape[0] == 1 and second.image_grid_thw.shape[0] == 2
    size = len(first.pixel_values)
    assert torch.equal(second.pixel_values[:size], first.pixel_values)
    assert not torch.equal(second.pixel_values[size:], first.pixel_values)
    text = processor.tokenizer.decode(second.input_ids)
    assert text.count("<|vision_start|>") == 2 and "made up" not in text
    assert "second image><|im_end|>\n<|im_start|>assistant\n" in text
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_")


@pytest.mark.parametrize(
    ("test_set", "family", "made"), [("h_bar", "rows", "y_values"), ("v_bar", "columns", "x_values")]
)
def test_on_a_chart_the_table_tools_focus_on_bars(
    monkeypatch: pytest.MonkeyPatch,
    processor: Any,
    example_of: dict[str, Example],
    test_set: str,
    family: str,
    made: str,
) -> None:
    example = example_of[test_set]
    if made not in example.figure.boxes:
        pytest.fail(f"the fixture of {test_set} has no {made}")
    (rollout,), scripted = answered(monkeypatch, processor, [example], block(focus(example, family)), ANSWER)
    assert [call.name for call in rollout.calls] == [f"focus_on_{made}_with_draw"] and rollout.call_ok
    assert "<|vision_end|> # USER REQUEST" in processor.tokenizer.decode(scripted.shown[0][0].input_ids)
    assert "<|vision_end|># USER REQUEST" in processor.tokenizer.decode(scripted.shown[1][0].input_ids)


@pytest.mark.parametrize(
    ("turn", "called"),
    [
        (ANSWER, False),
        (block("import os") + ANSWER, True),
        (block("display(focus_on_rows_with_draw(image_1, ['no such row'], rows_bbox))") + ANSWER, True),
        ("```python\ndisplay(image_1)\n" + ANSWER, True),
    ],
    ids=["no block", "no call", "no such label", "not closed"],
)
def test_without_an_image_the_first_turn_s_answer_counts(
    monkeypatch: pytest.MonkeyPatch, processor: Any, example_of: dict[str, Example], turn: str, called: bool
) -> None:
    (rollout,), scripted = answered(monkeypatch, processor, [example_of["vwtq"]], turn)
    assert rollout.texts == [turn] and len(scripted.shown) == 1
    assert (rollout.called, rollout.call_ok) == (called, False)


def test_a_batch_goes_on_only_where_an_image_was_made(
    monkeypatch: pytest.MonkeyPatch, processor: Any, example_of: dict[str, Example]
) -> None:
    examples = [example_of[name] for name in ("vwtq", "charxiv", "vtabfact")]
    turns = [block(focus(examples[0], "rows")), block(focus(examples[1], "rows")), block("display(image_1)")]
    rollouts, scripted = answered(monkeypatch, processor, examples, *turns, ANSWER, "FINAL ANSWER: true. TERMINATE")
    assert [len(rollout.texts) for rollout in rollouts] == [2, 1, 2]
    assert [rollout.call_ok for rollout in rollouts] == [True, False, False]
    assert len(scripted.shown[1]) == 2
