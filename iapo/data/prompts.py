"""Prompt rendering, shared by training, the teacher cache and evaluation, so that all of them use the same prompt."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from iapo.data.decoding import as_seen
from iapo.types import Example

ANSWER_PREFIX = "FINAL ANSWER: "
"""Text that introduces the final answer; :func:`iapo.rewards.answers.matching.extract` reads what follows it."""

Message = dict[str, Any]
"""A chat message in the format of transformers and TRL: ``role``, ``content`` and what a tool turn adds."""


def undecoded_image(example: Example) -> Image.Image:
    """Return the example's image as it is stored, with its size known but its pixels not decoded yet.

    A figure that EXIF turns has its sides swapped here, which does not change how many tokens it takes.
    """
    return Image.open(io.BytesIO(example.image_png))


def open_image(example: Example) -> Image.Image:
    """Return the example's image as a reader sees it, in RGB; see :func:`iapo.data.decoding.as_seen`."""
    return as_seen(undecoded_image(example))


def prompt_messages(example: Example, image: Image.Image | None = None) -> list[Message]:
    """Return the user turn that opens every rollout: image (I), context (P), request (R).

    Args:
        example: the question and its figure.
        image: the decoded image; decoded from the example if None.
    """
    return [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": image if image is not None else open_image(example)},
                {"type": "text", "text": example.context + "\n"},
                {"type": "text", "text": example.request},
            ],
        }
    ]


def answer_text(answer: str) -> str:
    """Return the assistant's final turn for a given answer."""
    return ANSWER_PREFIX + answer


def content_text(content: str | Sequence[Mapping[str, Any]]) -> str:
    """Return a message's content as text; images are written as ``<image>``."""
    if isinstance(content, str):
        return content
    return " ".join("<image>" if part["type"] == "image" else part["text"] for part in content)
