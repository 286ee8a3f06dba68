"""Did the image help? The two extra answers of every question see what they should, and no more is generated."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from benchmarks.agent import FigureAgent
from benchmarks.evaluate import evaluate
from benchmarks.records import read_run, write_records
from benchmarks.tasks.scoring import process_results
from iapo.data.prompts import answer_text, open_image, prompt_messages
from iapo.data.store import read_examples
from iapo.models.loading import save_model
from iapo.rollout.encoding import EncodedPrompt, encode_examples, encode_prompt
from iapo.rollout.generation import generate_turn
from iapo.rollout.two_turn import roll_out, tool_suffix_ids
from iapo.tools.drawing import apply
from iapo.tools.parsing import CALL_TOKEN, render_call
from iapo.types import Example, ToolCall

Speak = Callable[[int, str, list[Tensor]], str | None]


class Policy:
    """Says what ``speak(question, turn, images)`` says, else what the tiny model generates; keeps all it was shown.

    The turn is ``first``, ``second`` (after a tool's answer) or ``off`` (no tools), told from the prompt itself.
    """

    device = torch.device("cpu")

    def __init__(self, model: Any, processor: Any, examples: Sequence[Example], speak: Speak) -> None:
        self._model, self._tokenizer, self._speak = model, processor.tokenizer, speak
        images = [open_image(example) for example in examples]
        self._with_tools = [p.input_ids for p in encode_examples(processor, examples, images)]
        self._without = [p.input_ids for p in encode_examples(processor, examples, images, tools=False)]
        assert len(set(map(tuple, self._with_tools))) == len(examples)
        self.shown: dict[str, dict[int, list[EncodedPrompt]]] = {"first": {}, "second": {}, "off": {}}
        self.suppressed: list[list[int]] = []

    def generate(self, **inputs: Any) -> Tensor:
        prompts = self._rows(inputs)
        self.suppressed.append(inputs["suppress_tokens"])
        said = []
        for prompt in prompts:
            question, turn = self._recognise(prompt.input_ids)
            self.shown[turn].setdefault(question, []).append(prompt)
            said.append(self._speak(question, turn, images_of(prompt)))
        if None in said:
            assert set(said) == {None}
            return self._model.generate(**inputs)
        turns = [self._tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"] for text in said]
        padded = self._tokenizer.pad({"input_ids": turns}, padding_side="right", return_tensors="pt")
        return torch.cat([inputs["input_ids"], padded["input_ids"]], dim=1)

    def _recognise(self, ids: list[int]) -> tuple[int, str]:
        if ids in self._without:
            return self._without.index(ids), "off"
        question = next(i for i, prompt in enumerate(self._with_tools) if ids[: len(prompt)] == prompt)
        return question, "first" if ids == self._with_tools[question] else "second"

    def _rows(self, inputs: dict[str, Any]) -> list[EncodedPrompt]:
        start = self._tokenizer.convert_tokens_to_ids("<|vision_start|>")
        counts = (inputs["input_ids"] == start).sum(dim=1).tolist()
        grids = inputs["image_grid_thw"].split(counts)
        pixels = inputs["pixel_values"].split([int(grid.prod(dim=1).sum()) for grid in grids])
        masks = inputs["attention_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(inputs["input_ids"], masks, strict=True)]
        return [EncodedPrompt(*row) for row in zip(ids, pixels, grids, strict=True)]


def images_of(prompt: EncodedPrompt) -> list[Tensor]:
    """The pixels of each image."""
    return list(prompt.pixel_values.split(prompt.image_grid_thw.prod(dim=1).tolist()))


def call(example: Example, labels: Sequence[str], mode: str = "mask") -> ToolCall:
    family = next(f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)
    return ToolCall(f"focus_on_{family}_with_{mode}", tuple(labels))


def family_labels(example: Example) -> list[str]:
    return next(list(boxes) for boxes in example.figure.boxes.values() if example.focus_labels[0] in boxes)


def foreign_label(example: Example, others: Sequence[Example]) -> str:
    return next(each for other in others for each in other.focus_labels if each not in family_labels(example))


def first_turns(examples: Sequence[Example]) -> list[str]:
    """In turn: a right call, one that fails, an answer, a call that masks nothing, a right and a failing call."""

    def turn(i: int, example: Example) -> str:
        right = render_call(call(example, example.focus_labels))
        failing = render_call(call(example, [foreign_label(example, examples)]))
        kinds = [right, failing, answer_text("12"), render_call(call(example, family_labels(example))), right + failing]
        return kinds[i % len(kinds)]

    return [turn(i, example) for i, example in enumerate(examples)]


@pytest.fixture(scope="module")
def bars(data_root: Path) -> list[Example]:
    return read_examples(data_root / "test" / "h_bar.parquet")


def test_the_second_turn_sees_the_original_where_there_was_an_edit(tiny: tuple[Any, Any], bars: list[Example]) -> None:
    model, processor = tiny
    examples = bars[:10]
    turns = first_turns(examples)
    policy = Policy(model, processor, examples, lambda i, turn, images: turns[i] if turn == "first" else None)
    rollouts = roll_out(policy, processor, examples, turn_tokens=8, image_help=True)

    def pixels(image: Any) -> Tensor:
        return processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]

    for i, example in enumerate(examples):
        prompts = policy.shown["second"].get(i, [])
        # Right calls alone edit: their second turn comes twice, that of other calls once, and an answer has none.
        assert len(prompts) == {0: 2, 1: 1, 2: 0, 3: 1, 4: 2}[i % 5]
        assert rollouts[i].call_ok == (i % 5 in (0, 3)) and rollouts[i].called == (i % 5 != 2)
        if len(prompts) < 2:
            assert rollouts[i].text_original == rollouts[i].texts[-1]
            continue
        original, result = open_image(example), apply(open_image(example), example.figure, rollouts[i].calls[:1])
        edited, unedited = prompts
        assert edited.input_ids == unedited.input_ids
        assert torch.equal(images_of(edited)[0], pixels(original)) and torch.equal(
            images_of(edited)[1], pixels(result.image)
        )
        assert not torch.equal(pixels(original), pixels(result.image))
        assert all(torch.equal(image, pixels(original)) for image in images_of(unedited))
        assert len(images_of(unedited)) == len(images_of(edited)) == 2
        (alone,) = generate_turn(model, processor, [unedited], max_tokens=8)
        assert rollouts[i].text_original == processor.tokenizer.decode(alone, skip_special_tokens=True)


def test_the_first_turn_is_generated_once(tiny: tuple[Any, Any], bars: list[Example]) -> None:
    examples, turns = bars[:5], first_turns(bars[:5])
    policy = Policy(*tiny, examples, lambda i, turn, images: turns[i] if turn == "first" else None)
    rollouts = roll_out(policy, tiny[1], examples, turn_tokens=8, image_help=True)
    assert all(len(prompts) == 1 for prompts in policy.shown["first"].values())
    assert len(policy.suppressed) == 4 and all(rollout.text_off is not None for rollout in rollouts)
    plain = roll_out(policy, tiny[1], examples, turn_tokens=8)
    assert len(policy.suppressed) == 6
    assert all(rollout.text_original is rollout.text_off is None for rollout in plain)
    assert [rollout.texts for rollout in plain] == [rollout.texts for rollout in rollouts]


def test_with_the_tool_off_there_are_no_tools_and_no_call_however_likely(
    tiny: tuple[Any, Any], test_examples: list[Example]
) -> None:
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    examples = test_examples[::30]
    opening = processor.tokenizer.convert_tokens_to_ids(CALL_TOKEN)
    bias = torch.zeros(len(processor.tokenizer))
    bias[opening] = 1e4
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    policy = Policy(model, processor, examples, lambda i, turn, images: None)
    rollouts = roll_out(policy, processor, examples, turn_tokens=4, image_help=True)
    assert all(rollout.called for rollout in rollouts)
    assert all(rollout.text_off and CALL_TOKEN not in rollout.text_off for rollout in rollouts)
    assert opening not in policy.suppressed[0] and opening in policy.suppressed[-1]
    for i in range(len(examples)):
        (with_tools,), (without,) = policy.shown["first"][i], policy.shown["off"][i]
        text = processor.tokenizer.decode(without.input_ids)
        assert "focus_on" not in text and "<tools>" not in text
        # The system turn with the tools is all that differs.
        assert processor.tokenizer.decode(with_tools.input_ids).endswith(text)
        assert torch.equal(with_tools.pixel_values, without.pixel_values)


def test_prompts_encoded_together_equal_those_encoded_alone(
    tiny: tuple[Any, Any], test_examples: list[Example]
) -> None:
    examples = test_examples[::17]
    assert len({example.figure.kind for example in examples}) == 4
    together = encode_examples(tiny[1], examples, [open_image(example) for example in examples])
    for example, prompt in zip(examples, together, strict=True):
        alone = encode_prompt(tiny[1], prompt_messages(example), example.figure.kind)
        assert prompt.input_ids == alone.input_ids
        assert torch.equal(prompt.pixel_values, alone.pixel_values)
        assert torch.equal(prompt.image_grid_thw, alone.image_grid_thw)


def test_tool_answers_are_tokenized_as_trl_does(tiny: tuple[Any, Any], bars: list[Example]) -> None:
    processor, name = tiny[1], "focus_on_x_values_with_mask"
    trainer = SimpleNamespace(
        processing_class=processor,
        _tokenizer=processor.tokenizer,
        _is_vlm=True,
        chat_template=None,
        chat_template_kwargs={},
    )

    def image(example: Example) -> dict[str, Any]:
        return {"role": "tool", "name": name, "content": [{"type": "image", "image": open_image(example)}]}

    def error(said: Any) -> dict[str, Any]:
        return {"role": "tool", "name": said, "content": "{'error': 'the figure has no row'}"}

    cut = open_image(bars[0]).crop((0, 0, 28, 56))
    small = {"role": "tool", "name": name, "content": [{"type": "image", "image": cut}]}
    several = [[image(bars[0])], [small], [error(name)], [error(["a", "list"])], [image(bars[1]), error(name), small]]
    found = [tool_suffix_ids(processor, messages) for messages in several]
    assert found == [GRPOTrainer._get_tool_suffix_ids(trainer, messages) for messages in several]  # type: ignore[arg-type]
    # The tiny template leaves a tool's name out, so the two errors are alike; nothing else is.
    assert len(set(map(tuple, found))) == 4


def wrong(example: Example) -> str:
    return "90" if int(example.answer) < 60 else "30"


def reader(examples: Sequence[Example]) -> Speak:
    """Reads an edited figure alone; elsewhere every second question is answered rightly, whatever is seen."""
    turns = first_turns(examples)

    def speak(i: int, turn: str, images: list[Tensor]) -> str:
        right = answer_text(examples[i].answer), answer_text(wrong(examples[i]))
        by_chance = right[i // 5 % 2]
        if turn == "first":
            return by_chance if i % 5 == 2 else turns[i]
        if turn == "off":
            return right[i % 3 > 0]
        if i % 5 in (0, 4):
            return right[torch.equal(images[0], images[-1])]
        return by_chance

    return speak


def test_scores_in_the_three_modes(tmp_path: Path, tiny: tuple[Any, Any], data_root: Path, bars: list[Example]) -> None:
    save_model(*tiny, tmp_path / "model")
    agent = FigureAgent(str(tmp_path / "model"), batch_size=16)
    agent.model = Policy(agent.model, agent.processor, bars, reader(bars))
    records = evaluate(agent, {"h_bar": data_root / "test" / "h_bar.parquet"}, method="reader", seed=0)
    assert [record["example_id"] for record in records] == [example.example_id for example in bars]
    for i, record in enumerate(records):
        edited = i % 5 in (0, 4)
        assert record["score"] == (1 if edited else 1 - i // 5 % 2)
        assert record["score_original"] == (0 if edited else record["score"])
        assert record["score_off"] == (i % 3 == 0)
        assert record["answer_off"] == (record["gold"] if i % 3 == 0 else wrong(bars[i]))
    assert {record["score"] for record in records if not record["call_ok"] and record["called"]} == {0, 1}
    assert {len(prompts) for i, prompts in agent.model.shown["second"].items() if i % 5 in (1, 3)} == {1}
    write_records(tmp_path / "records.parquet", records)
    assert read_run(tmp_path / "records.parquet")["score_off"].sum() == sum(i % 3 == 0 for i in range(40))


def test_records_without_the_extra_answers(
    tmp_path: Path, tiny: tuple[Any, Any], data_root: Path, bars: list[Example]
) -> None:
    save_model(*tiny, tmp_path / "model")
    agent = FigureAgent(str(tmp_path / "model"), turn_tokens=6, image_help=False)
    records = evaluate(agent, {"h_bar": data_root / "test" / "h_bar.parquet"}, method="tiny", seed=0)
    write_records(tmp_path / "records.parquet", records)
    extra = ["answer_original", "score_original", "answer_off", "score_off"]
    found = read_run(tmp_path / "records.parquet")
    assert found[extra].isna().all(axis=None) and found["score"].notna().all()
    write_records(tmp_path / "unscored.parquet", [records[0] | {"score": None}, *records[1:]])
    assert read_run(tmp_path / "unscored.parquet")["score"].isna().sum() == 1


def test_plain_text_of_another_model_is_asked_once(bars: list[Example]) -> None:
    doc: dict[str, Any] = {
        "example_id": "a",
        "figure": json.dumps({"figure_id": "f"}),
        "answer": "39",
        "metric": "relaxed",
    }
    doc |= {"test_set": "h_bar", "focus_labels": ["Oslo"]}
    record = process_results(doc, ["The bar ends at 39.\nFINAL ANSWER: 39"])["accuracy"]
    assert record["score"] == 1 and not record["called"]
    assert record["score_original"] is record["answer_original"] is record["score_off"] is record["answer_off"] is None
