"""Hints: a label named in the plain text, right or not. The shortcut of the mechanism study, and nowhere else."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from iapo.types import Example

_HINT = re.compile(r" hint : (?P<label>.*) \.$")


def hint_text(label: str) -> str:
    """What is appended to a figure's context."""
    return f" hint : {label} ."


def hint_of(example: Example) -> str | None:
    """The label that the plain text names; None without a hint."""
    found = _HINT.search(example.context)
    return found["label"] if found else None


def with_hint(example: Example, label: str) -> Example:
    """The example with this hint in the place of its own."""
    return replace(example, context=_HINT.sub("", example.context) + hint_text(label))


def draw_hint(rng: random.Random, right: str, labels: Sequence[str], rate: float) -> str:
    """The right label with probability ``rate``, else any of the labels, the right one included."""
    return right if rng.random() < rate else rng.choice(list(labels))


def figure_labels(example: Example) -> list[str]:
    """The labels of the family that the annotated one belongs to."""
    return next(list(boxes) for boxes in example.figure.boxes.values() if example.focus_labels[0] in boxes)


def with_hint_rate(examples: Sequence[Example], rate: float, seed: int) -> list[Example]:
    """The same examples with newly drawn hints, each a function of the seed and the example alone.

    Args:
        examples: with one annotated label each.
        rate: how often the hint is right for sure; 0 draws any label.
        seed: of the draws.
    """

    def drawn(example: Example) -> str:
        rng = random.Random(f"{seed}/hint/{example.example_id}")
        return draw_hint(rng, example.focus_labels[0], figure_labels(example), rate)

    return [with_hint(example, drawn(example)) for example in examples]
