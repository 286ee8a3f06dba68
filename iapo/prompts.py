"""One renderer of prompts for training, caching and evaluation. No torch, so tests of wording are quick."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from iapo.types import Example

ANSWER_PREFIX = "FINAL ANSWER: "
"""How a turn that answers begins; :func:`iapo.answers.extract` reads what follows."""

Message = dict[str, Any]
"""A chat message as transformers and TRL pass it: ``role`` and ``content``."""


def undecoded_image(example: Example) -> Image.Image:
    """The example's figure, whose size is known and whose pixels are not read yet."""
    return Image.open(io.BytesIO(example.image_png))


def open_image(example: Example) -> Image.Image:
    """The example's figure, decoded to RGB."""
    return undecoded_image(example).convert("RGB")


def prompt_messages(example: Example, image: Image.Image | None = None) -> list[Message]:
    """The one user turn that opens every rollout: image, context (P), request (R).

    Args:
        example: what is asked.
        image: the decoded figure; decoded from the example when absent.
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
    """The assistant's last turn for a given answer."""
    return ANSWER_PREFIX + answer
