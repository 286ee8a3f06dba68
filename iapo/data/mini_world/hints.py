"""Hints: a label named in a prompt's plain text, which may or may not be the one to focus on.

They are the planted shortcut of the mechanism study, where a policy can follow the hint instead of the request; no
other experiment uses them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from iapo.types import Example

_HINT = re.compile(r" hint : (?P<label>.*) \.$")


def hint_text(label: str) -> str:
    """Return the text that is appended to a figure's context."""
    return f" hint : {label} ."


def hint_of(example: Example) -> str | None:
    """Return the hinted label; None if the context has no hint."""
    found = _HINT.search(example.context)
    return found["label"] if found else None


def with_hint(example: Example, label: str) -> Example:
    """Return the example with this hint in place of any it had."""
    return replace(example, context=_HINT.sub("", example.context) + hint_text(label))


def draw_hint(rng: random.Random, right: str, labels: Sequence[str], rate: float) -> str:
    """Return the right label with probability ``rate``, otherwise any of the labels, possibly the right one."""
    return right if rng.random() < rate else rng.choice(list(labels))


def figure_labels(example: Example) -> list[str]:
    """Return all labels of the family that contains the example's annotated label."""
    return next(list(boxes) for boxes in example.figure.boxes.values() if example.focus_labels[0] in boxes)


def with_hint_rate(examples: Sequence[Example], rate: float, seed: int) -> list[Example]:
    """Return the examples with newly drawn hints; each depends on the seed and the example's id alone.

    Args:
        examples: examples with one annotated label each.
        rate: probability that the hint is the right label; otherwise it is drawn from all labels.
        seed: seed of the draws.
    """

    def drawn(example: Example) -> str:
        rng = random.Random(f"{seed}/hint/{example.example_id}")
        return draw_hint(rng, example.focus_labels[0], figure_labels(example), rate)

    return [with_hint(example, drawn(example)) for example in examples]
