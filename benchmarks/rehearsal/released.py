"""Stand-ins for the weights and the prompt that VTool-R1's authors have published.

The tiny model learns to write one block of calls, the same for every figure: a mask with no label to keep, which every
table and chart carries out and which fails on sub-figures, so that both ways to a final answer are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rehearsal.qwen import LossOnLabels, write_tiny_qwen
from iapo.artifacts.files import atomic_directory, atomic_write
from iapo.cold_start.demonstrations import Demonstration
from iapo.cold_start.stages import collate, run_stage
from iapo.config.mini_world import ColdStartConfig
from iapo.config.sources import ReleasedConfig
from iapo.data.prompts import open_image
from iapo.models.interfaces import Processor, QwenVL
from iapo.rollout.legacy_turns import PLACEHOLDER, legacy_prompt, user_message
from iapo.types import Example

PROMPT = f"""{PLACEHOLDER}

The tools are Python functions. Write one block of calls and display the image, or answer at once with FINAL ANSWER: and
TERMINATE.
"""
"""Stands in for VTool-R1's prompt, which is four thousand tokens long."""

TURN = """ACTION 0:
```python
display(focus_on_columns_with_mask(image_1, [], columns_bbox))
```"""
"""The turn that the stand-in learns."""

_STEPS = 50
"""Optimiser steps."""
_STAGE = ColdStartConfig(batch_size=1, learning_rate=1.5e-2)

QWEN_TEMPLATE = """\
{% if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}\
{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Like the template on the hub: renders images and a system turn, and no tools."""


def write_released(
    hub: Path, released: Sequence[ReleasedConfig], model: QwenVL, processor: Processor, examples: Sequence[Example]
) -> None:
    """Write the repositories and the prompts of released weights, each atomically.

    Args:
        hub: folder of the stand-in hub.
        released: what the run evaluates, with paths as the prompts' addresses.
        model: a tiny model in Qwen2.5-VL's layout; trained further in place.
        processor: its processor; keeps the template that renders images.
        examples: training questions.
    """
    processor.chat_template = processor.tokenizer.chat_template = QWEN_TEMPLATE
    shown = [_demonstration(example) for example in examples]
    run_stage(
        LossOnLabels(model),
        lambda i: shown[i % len(shown)],
        lambda items: collate(items, processor),
        _STEPS,
        _STAGE.batch_size,
        _STAGE,
        "tiny Qwen2.5-VL, released",
    )
    for each in released:
        with atomic_directory(hub / each.model.source.repo) as tmp:
            write_tiny_qwen(tmp, model, processor)
        with atomic_write(Path(each.prompt.address)) as tmp:
            tmp.write_text(PROMPT)


def _demonstration(example: Example) -> Demonstration:
    question = user_message(legacy_prompt(example, PROMPT), open_image(example))
    return Demonstration([question, {"role": "assistant", "content": TURN}], kind=None)
