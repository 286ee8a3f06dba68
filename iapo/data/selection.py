"""Selection of training prompts, and the dataset rows that TRL's trainer receives.

Sampling, the teacher cache and training select prompts with the same function, so that the cache covers exactly what
the policy rolls out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from PIL.Image import Image

from iapo.data.prompts import open_image, prompt_messages
from iapo.data.store import figure_to_json
from iapo.types import Example, FigureKind, Metric


class TextPart(TypedDict):
    """One part of a message's content, as TRL's dataset holds it."""

    type: str
    text: str | None
    """None for an image, which TRL takes from the row's ``images``."""


class UserTurn(TypedDict):
    """The only message of a prompt."""

    role: str
    content: list[TextPart]


class DatasetRow(TypedDict):
    """One row of the training dataset."""

    prompt: list[UserTurn]
    """The prompt's only message."""
    images: list[Image]
    """Its figure, as TRL reads it."""
    figure: str
    """The figure as JSON, by :func:`iapo.data.store.figure_to_json`."""
    environment: FigureKind
    """Selects the tool environment of the rollout."""
    answer: str
    """The gold answer; several are joined by ``|||``."""
    metric: Metric
    """How it is matched."""
    focus_labels: list[str]
    """Annotated labels, what the right call names; empty where the data has no annotation."""
    example_id: str
    """The question; rollouts with the same one are a group."""


def training_prompts(examples: Sequence[Example], prompts_per_set: int) -> list[Example]:
    """Return the examples that reinforcement learning rolls out: the first ``prompts_per_set`` of each test set."""
    by_set: dict[str, list[Example]] = {}
    for example in examples:
        by_set.setdefault(example.test_set, []).append(example)
    return [example for rows in by_set.values() for example in rows[:prompts_per_set]]


def dataset_row(example: Example) -> DatasetRow:
    """Return the training row of an example.

    TRL renders the prompt; the tool environment and the reward functions read the other columns.
    """
    image = open_image(example)
    (message,) = prompt_messages(example, image)
    # TRL inserts the row's images into the image parts.
    content: list[TextPart] = [{"type": part["type"], "text": part.get("text")} for part in message["content"]]
    return {
        "prompt": [{"role": "user", "content": content}],
        "images": [image],
        "figure": figure_to_json(example.figure),
        "environment": example.figure.kind,
        "answer": example.answer,
        "metric": example.metric,
        "focus_labels": list(example.focus_labels),
        "example_id": example.example_id,
    }
