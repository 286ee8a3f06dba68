"""What transformers says of a turn that a real vLLM made; beside the scripts that ``test_real`` runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout.encoding import EncodedPrompt


def forward(model: Any, processor: Any, prompt: EncodedPrompt, turn: list[int]) -> Tensor:
    """[turn, vocabulary] logits that chose the turn."""
    ids = torch.tensor([prompt.input_ids + turn])
    output = model(
        input_ids=ids,
        mm_token_type_ids=(ids == processor.image_token_id).long(),
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
    )
    logits: Tensor = output.logits[0, len(prompt.input_ids) - 1 : -1]
    return logits


@torch.no_grad()
def difference(model: Any, processor: Any, prompt: EncodedPrompt, turn: list[int], values: Tensor) -> float:
    """Largest gap between some log-probabilities of a turn, [turn], and transformers', which never samples images."""
    logits = forward(model, processor, prompt, turn)
    logits[:, processor.tokenizer.convert_tokens_to_ids(list(SUPPRESSED_TOKENS))] = -torch.inf
    expected = logits.log_softmax(-1).gather(1, torch.tensor(turn)[:, None])[:, 0]
    return (expected - values).abs().max().item()
