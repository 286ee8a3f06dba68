"""Hostile turns and answers on the whole way from text to parquet: how many raise, and how long they take.

Run it as ``python -m benchmarks.perf.hostile_turns --turns 100000``; it ends with exit status 1 if anything raised.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import timeit
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch

from benchmarks.agent import response_text
from benchmarks.perf.generated_turns import (
    GOLDS,
    byte_processor,
    example,
    generated_answer,
    generated_ids,
    generated_turn,
)
from benchmarks.records import ItemRecord, read_run, write_records
from benchmarks.tasks.scoring import process_results
from iapo.data.prompts import Message, open_image
from iapo.data.store import ExampleRow, figure_to_json
from iapo.models.interfaces import Processor
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.outcome import outcome_reward
from iapo.rewards.tool_use import exact_match_reward, failed_call_penalty
from iapo.rollout.generation import turn_text
from iapo.rollout.status import call_status
from iapo.rollout.two_turn import Rollout, collect_rollout, run_first_turn, start_environment, tool_suffix_ids
from iapo.teacher.candidates import text_before_call
from iapo.tools.messages import assistant_message
from iapo.tools.parsing import CALL_TOKEN, canonical, parse_turn, render_call, tagged
from iapo.tools.registry import TOOLS
from iapo.types import Example

_RECORDS_PER_FILE = 1000
_IMAGE_TOKENS = 9
"""Tokens of the figure's image: one for each 28 x 28 pixels."""


@dataclass
class Tried:
    """What became of the turns that were tried."""

    faults: list[str] = field(default_factory=list)
    """Traceback of each turn that raised, with the turn."""
    seconds: list[float] = field(default_factory=list)
    """CPU time of each turn, without encoding images and writing parquet."""


class Way:
    """The way of a turn: text, calls, environment, next prompt, reward, record."""

    def __init__(self, processor: Processor, example: Example) -> None:
        self.processor = processor
        self._example = example
        self._image = open_image(example)
        self.image_seconds = 0.0
        """CPU time spent on next prompts with images, most of it for encoding them."""
        self._row: dict[str, object] = {**vars(example), "figure": figure_to_json(example.figure)}

    def walk(self, first: str, second: str) -> tuple[Rollout, ItemRecord]:
        """Take a rollout from the text of its turns to its record.

        Args:
            first: text of the first turn.
            second: text of the turn after a tool's answer, if there is one.

        Returns:
            The rollout and its record.
        """
        texts = [first]
        environment = start_environment(self._example, self._image)
        messages = run_first_turn(first, self._example, environment)
        if len(messages) > 1:
            self._next_prompt(messages[1:])
            texts.append(second)
        rollout = collect_rollout(messages, texts, environment, truncated=False)
        self._reward(rollout, environment.succeeded)
        for call in rollout.calls:
            assert parse_turn(text_before_call(first) + render_call(call)).calls == [call]
        return rollout, self._record(rollout)

    def _next_prompt(self, answers: list[Message]) -> None:
        started = time.process_time()
        ids = tool_suffix_ids(self.processor, answers)
        images = sum(isinstance(answer["content"], list) for answer in answers)
        if images:
            self.image_seconds += time.process_time() - started
        assert ids.count(self.processor.image_token_id) == images * _IMAGE_TOKENS, "a text was read as an image"

    def _reward(self, rollout: Rollout, succeeded: bool) -> None:
        status = call_status(rollout.texts[0], succeeded)
        assert rollout.called == (status != "none") and rollout.call_ok == (status == "executed")
        failed_call_penalty([rollout.messages], [status])
        exact_match_reward([rollout.messages], [self._example.focus_labels], [status])
        outcome_reward([rollout.messages], [self._example.answer], [self._example.metric])

    def _record(self, rollout: Rollout) -> ItemRecord:
        scored = process_results(cast(ExampleRow, self._row), [response_text(rollout)])["accuracy"]
        return cast(ItemRecord, {"method": "hostile", "seed": 0, "test_set": self._example.test_set, **scored})


def try_turns(way: Way, turns: int, seed: int) -> Tried:
    """Take generated turns and answers all the way, and write and read back their records.

    Args:
        way: the way to take.
        turns: number of rollouts.
        seed: seed of the generator.
    """
    rng, tried = random.Random(seed), Tried()
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, turns, _RECORDS_PER_FILE):
            count = min(_RECORDS_PER_FILE, turns - start)
            first, second = (sampled_texts(way.processor, rng, count) for _ in range(2))
            records = [_try(way, *texts, rng, tried) for texts in zip(first, second, strict=True)]
            _write_and_read([record for record in records if record], Path(folder) / "records.parquet")
    return tried


def _try(way: Way, first: str, second: str, rng: random.Random, tried: Tried) -> ItemRecord | None:
    """Take one rollout and one more answer all the way; None if that raised."""
    answer, (gold, metric) = generated_answer(rng), rng.choice(GOLDS)
    started, image_seconds = time.process_time(), way.image_seconds
    record = None
    try:
        record = way.walk(first, second)[1]
        score(extract(answer), gold, metric)
    except Exception:
        tried.faults.append(f"{first!r}\n{second!r}\n{answer!r}\n{traceback.format_exc()}")
    tried.seconds.append(time.process_time() - started - (way.image_seconds - image_seconds))
    return record


def sampled_texts(processor: Processor, rng: random.Random, count: int) -> list[str]:
    """Return the texts of turns as a policy samples them: half with special tokens, half with their spelling."""
    tokenizer = processor.tokenizer
    ids: list[list[int]] = [generated_ids(rng, len(tokenizer)) for _ in range(count // 20)]
    for spelled, turns in ((False, (count - len(ids)) // 2), (True, (count - len(ids) + 1) // 2)):
        texts = [generated_turn(rng) for _ in range(turns)]
        ids += tokenizer(texts, add_special_tokens=False, split_special_tokens=spelled)["input_ids"]
    rng.shuffle(ids)
    return [turn_text(tokenizer, turn) for turn in ids]


def _write_and_read(records: list[ItemRecord], path: Path) -> None:
    write_records(path, records)
    found = read_run(path)["turns"].tolist()
    assert found == [record["turns"] for record in records], "parquet changed a turn"


_LABELS = '<tool_call>{"name": "focus_on_rows_with_mask", "arguments": {"rows_to_focus_on": ["'
_REPEATED: Mapping[str, tuple[str, str, str]] = {
    "words": ("", "I look at the row. ", ""),
    "spaces": ("FINAL ANSWER:", " ", "x"),
    "line ends": ("FINAL ANSWER:", "\n", "x"),
    "opened calls": ("", CALL_TOKEN, ""),
    "empty calls": ("", tagged(""), ""),
    "calls": ("", tagged('{"name": "focus_on_rows_with_mask", "arguments": {"rows_to_focus_on": []}}'), ""),
    "thoughts": ("", "<think>", ""),
    "thoughts with calls": ("", f"<think>{CALL_TOKEN}</think>", ""),
    "labels": (_LABELS + 'a"', ',"b"', "]}}"),
    "one label": (_LABELS, "a", '"]}}'),
    "escapes": (_LABELS, "\\u00e9", '"]}}'),
    "a name": ('<tool_call>{"name": "', "a", '", "arguments": {}}'),
    "keys": ('<tool_call>{"name": "a"', ',"b": {"c": 1}', "}"),
    "brackets": (CALL_TOKEN, "[", ""),
    "digits": (CALL_TOKEN, "1", ""),
    "decimals": (CALL_TOKEN + '{"name": "a", "n": 1.', "1", "}"),
    "answers": ("", "FINAL ANSWER: 7\n", ""),
    "an answer of digits": ("FINAL ANSWER: ", "1", ""),
    "an answer of groups": ("FINAL ANSWER: 1", ",111", ""),
    "an answer of items": ("FINAL ANSWER: ", "a||", ""),
    "an answer in boxes": ("FINAL ANSWER: ", "\\boxed{", ""),
    "an answer in brackets": ("FINAL ANSWER: ", "(", "7"),
    "emphasis": ("FINAL ANSWER: ", "*", "7"),
    "an answer of tags": ("FINAL ANSWER: ", "<b>", "7"),
    "fractions": ("FINAL ANSWER: ", "1/", "7"),
    "words and stops": ("FINAL ANSWER: ", "a. ", ""),
}
"""Kind of a long text → its beginning, what is repeated and its end; a call is closed where it began."""

_SIZES = (100_000, 1_000_000, 10_000_000)
_MAX_SECONDS = 20.0
"""A kind that takes longer is not tried at the next size."""


def long_text(kind: str, size: int) -> str:
    """Return a text of about ``size`` characters, of a kind in :data:`_REPEATED`."""
    beginning, repeated, end = _REPEATED[kind]
    closing = "</tool_call>" if beginning.startswith(CALL_TOKEN) else ""
    return beginning + repeated * (size // len(repeated)) + end + closing


def _scorings(text: str) -> None:
    for gold, metric in GOLDS:
        score(extract(text), gold, metric)


def _canonical(text: str) -> None:
    for call in parse_turn(text).calls:
        canonical(call)
        render_call(call)


SCANS: Mapping[str, Callable[[str], object]] = {
    "parse_turn": parse_turn,
    "assistant_message": lambda text: assistant_message(text, TOOLS),
    "text_before_call": text_before_call,
    "canonical": _canonical,
    "extract, score": _scorings,
}
"""Everything that scans a turn."""


def growth(scan: Callable[[str], object], kind: str, sizes: Sequence[int] = _SIZES) -> list[float]:
    """Return CPU seconds of a scan for each size of text, in characters, ending early where it gets too slow."""
    seconds: list[float] = []
    for size in sizes:
        text = long_text(kind, size)
        # The better of two, and timeit stops the garbage collector: its passes grow with what else the process holds.
        seconds.append(min(timeit.repeat(partial(scan, text), number=1, repeat=2, timer=time.process_time)))
        if seconds[-1] > _MAX_SECONDS:
            break
    return seconds


def _print_growth() -> None:
    print("CPU seconds at 0.1, 1 and 10 million characters, the slowest kinds of text:")
    for name, scan in SCANS.items():
        found = sorted(((growth(scan, kind), kind) for kind in _REPEATED), key=lambda pair: -pair[0][-1])
        for seconds, kind in found[:3]:
            print(f"  {name}: {', '.join(f'{value:.3f}' for value in seconds)} ({kind})")


def main() -> None:
    """Try the turns that the command line asks for and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=100_000, help="number of rollouts")
    parser.add_argument("--seed", type=int, default=0, help="seed of the generator")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tried = try_turns(Way(byte_processor(), example()), arguments.turns, arguments.seed)
    for fault in tried.faults[:3]:
        print(fault)
    median, p99 = np.percentile(tried.seconds, [50, 99]) * 1000
    print(
        f"{len(tried.seconds)} turns tried, {len(tried.faults)} raised; CPU time p50 {median:.2f} ms, p99 {p99:.2f} ms"
    )
    _print_growth()
    raise SystemExit(bool(tried.faults))


if __name__ == "__main__":
    main()
