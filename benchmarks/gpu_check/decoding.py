"""Checks (h) and (j): what a decoded token costs in time and memory, and the hours of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks.gpu_check.clock import seconds
from benchmarks.gpu_check.finding import Bound, Finding
from benchmarks.gpu_check.paper import TYPICAL_TURN, paper_config
from benchmarks.gpu_check.questions import call_on, encoded, long_question
from benchmarks.gpu_check.scale import Scale
from benchmarks.gpu_check.shapes import random_policy
from iapo.jobs.stages import questions
from iapo.models.interfaces import Processor, QwenVL
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout import two_turn
from iapo.rollout.encoding import EncodedPrompt
from iapo.rollout.generation import generate_turn
from iapo.rollout.turns import turn_ids
from iapo.tools.parsing import render_call

_NO_END = (*SUPPRESSED_TOKENS, "<|im_end|>", "<|endoftext|>")
"""Random weights must not end a turn by chance, or its tokens would not be those that are timed."""


@dataclass(frozen=True)
class DecodingTimes:
    """Of one batch, seconds."""

    sequences: int
    prefill: float
    """Of all prompts and the first token."""
    token: float
    """Of one more token of every sequence."""


def decoding_times(
    model: QwenVL, processor: Processor, prompts: Sequence[EncodedPrompt], scale: Scale, device: torch.device
) -> DecodingTimes:
    """Time a batch of turns of one token and of more.

    Args:
        model: the policy.
        processor: its processor.
        prompts: of the batch.
        scale: how many more tokens.
        device: the model's.
    """

    def taken(tokens: int) -> float:
        return seconds(
            lambda: generate_turn(model, processor, prompts, max_tokens=tokens, suppressed=_NO_END),
            device,
            scale.repeats,
        )

    first, all_of_them = taken(1), taken(1 + scale.generated)
    return DecodingTimes(len(prompts), first, max(0.0, all_of_them - first) / scale.generated)


def generation(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Time the student's tokens and count the bytes of its keys and values, as it is evaluated and as it is trained."""
    figures: dict[str, object] = {}
    bounds = {}
    size = scale.student
    for name, dtype in (("bfloat16", torch.bfloat16), ("mixed", torch.float32)):
        model, processor = random_policy(size, scale, device, dtype)
        prompt = encoded(processor, long_question(0, scale, processor))
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "mixed"):
            times = decoding_times(model, processor, [prompt] * scale.questions, scale, device)
            kept, dtypes = _kept_bytes(model, prompt, device)
        figures[name] = {
            **asdict(times),
            "ms_a_token": 1000 * times.token,
            "kv_bytes_a_token": kept,
            "kv_dtype": dtypes,
            "kv_bytes_a_token_estimated": 4 * size.kv_width * size.layers,
        }
        if name == "bfloat16":
            bounds["bytes of keys and values over the estimate"] = Bound(kept / (4 * size.kv_width * size.layers), 1.01)
        del model
    return Finding(figures, bounds)


@torch.no_grad()
def _kept_bytes(model: QwenVL, prompt: EncodedPrompt, device: torch.device) -> tuple[float, str]:
    """Return the bytes of keys and values a token, and their dtype."""
    ids = torch.tensor([prompt.input_ids], device=device)
    image = model.config.image_token_id
    output = model(
        input_ids=ids,
        mm_token_type_ids=(ids == image).long(),
        pixel_values=prompt.pixel_values.to(device),
        image_grid_thw=prompt.image_grid_thw.to(device),
        use_cache=True,
        logits_to_keep=1,
    )
    kept = [tensor for layer in output.past_key_values.layers for tensor in (layer.keys, layer.values)]
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in kept})
    return sum(tensor.nbytes for tensor in kept) / ids.shape[1], ", ".join(dtypes)


def evaluation(scale: Scale, device: torch.device, work: Path) -> Finding:
    """Answer two batches of questions, with short turns and with long ones: the hours of the paper's evaluation.

    Random weights write no call, so what a first turn generates is replaced by a right call; its tool runs, and the
    second turn reads the edited figure.
    """
    config = paper_config()
    model, processor = random_policy(scale.student, scale, device, torch.bfloat16)
    examples = [long_question(i, scale, processor) for i in range(2 * scale.questions)]

    def called(
        model: QwenVL, processor: Processor, prompts: Sequence[EncodedPrompt], *, max_tokens: int
    ) -> list[list[int]]:
        generate_turn(model, processor, prompts, max_tokens=max_tokens, suppressed=_NO_END)
        return [
            turn_ids(processor.tokenizer, render_call(call_on(example, i)))
            for i, example in enumerate(examples[: len(prompts)])
        ]

    short, long = scale.generated // 4, 2 * scale.generated

    def taken(batch: Sequence[object], tokens: int) -> float:
        with patch.object(two_turn, "generate_turn", called):
            return seconds(
                lambda: two_turn.roll_out(
                    model,
                    processor,
                    batch,  # type: ignore[arg-type]
                    turn_tokens=tokens,
                    image_help=config.evaluation.image_help,
                ),
                device,
                1,
            )

    few, many = taken(examples[: scale.questions], short), taken(examples[scale.questions :], long)
    token = max(0.0, many - few) / (long - short)
    batch_seconds = few + (2 * TYPICAL_TURN - short) * token
    asked = sum(questions(config)[2])
    return Finding(
        {
            "questions": len(examples),
            "seconds": few + many,
            "turn_tokens": [short, long],
            "seconds_a_batch_at_512_tokens": batch_seconds,
            "asked": asked,
            "hours_a_policy": math.ceil(asked / scale.questions) * batch_seconds / 3600,
        }
    )
