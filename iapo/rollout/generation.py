"""Generation of assistant turns with ``transformers``, in one left-padded batch, or by an engine.

Tokens that would corrupt a rollout, such as image placeholders, are suppressed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from iapo.config.method import TrainConfig
from iapo.models.interfaces import Processor, QwenVL
from iapo.models.processor import IMAGE_TOKEN, SUPPRESSED_TOKENS
from iapo.rollout.encoding import EncodedPrompt


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: from the whole distribution of the trainer's rollouts, or its nucleus."""

    temperature: float
    top_p: float = 1.0
    """Probability mass of the nucleus; 1 leaves no token out."""

    @classmethod
    def of(cls, settings: TrainConfig) -> Sampling:
        """Return how a run with these settings samples its rollouts."""
        return cls(settings.temperature, settings.top_p)


@runtime_checkable
class Engine(Protocol):
    """A policy that another program runs, such as vLLM."""

    def write_turns(
        self,
        processor: Processor,
        prompts: Sequence[EncodedPrompt],
        *,
        max_tokens: int,
        sampling: Sampling | None,
        suppressed: Sequence[str],
    ) -> list[list[int]]:
        """Generate one assistant turn for each prompt; arguments and result are those of :func:`generate_turn`."""


Writer = QwenVL | Engine
"""What writes turns."""


@torch.no_grad()
def generate_turn(
    model: Writer,
    processor: Processor,
    prompts: Sequence[EncodedPrompt],
    *,
    max_tokens: int,
    sampling: Sampling | None = None,
    suppressed: Sequence[str] = SUPPRESSED_TOKENS,
) -> list[list[int]]:
    """Generate one assistant turn for each prompt, in one batch.

    Args:
        model: the policy, in eval mode or in an engine.
        processor: the model's processor.
        prompts: [B] encoded conversations so far.
        max_tokens: maximum length of a turn, in tokens.
        sampling: how tokens are drawn; None decodes greedily.
        suppressed: tokens that are never generated.

    Returns:
        [B] token ids of the turns, with the end token unless a turn was cut at ``max_tokens``.

    Raises:
        ValueError: if the tokenizer lacks one of the ``suppressed`` tokens.
    """
    if isinstance(model, Engine):
        return model.write_turns(processor, prompts, max_tokens=max_tokens, sampling=sampling, suppressed=suppressed)
    tokenizer = processor.tokenizer
    padded = tokenizer.pad(
        {"input_ids": [prompt.input_ids for prompt in prompts]},
        padding_side="left",
        return_tensors="pt",
    ).to(model.device)
    input_ids: Tensor = padded["input_ids"]
    image_id = cast(int, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
    output: Tensor = model.generate(  # type: ignore[misc, assignment]
        **padded,
        mm_token_type_ids=(input_ids == image_id).long(),
        pixel_values=torch.cat([prompt.pixel_values for prompt in prompts]).to(model.device),
        image_grid_thw=torch.cat([prompt.image_grid_thw for prompt in prompts]).to(model.device),
        max_new_tokens=max_tokens,
        **_drawn(sampling),
        suppress_tokens=_token_ids(tokenizer, suppressed),
    )
    turns = output[:, input_ids.shape[1] :].tolist()
    return [_until_end(turn, tokenizer.eos_token_id) for turn in turns]


def _drawn(sampling: Sampling | None) -> dict[str, Any]:
    """Return the arguments of ``generate``. TRL's rollouts leave out what a checkpoint or transformers would add:
    its 50 most probable tokens, its penalty of repetitions."""
    if sampling is None:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "repetition_penalty": 1.0,
    }


def _token_ids(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    found = cast(list[int], tokenizer.convert_tokens_to_ids(list(tokens)))
    ids = dict(zip(tokens, found, strict=True))
    unknown = [token for token, token_id in ids.items() if token_id is None or token_id == tokenizer.unk_token_id]
    if unknown:
        raise ValueError(
            f"the tokenizer has no token {', '.join(unknown)}; expected one of Qwen2.5-VL's, as its calls are written"
        )
    return list(ids.values())


def _until_end(turn: list[int], end: int) -> list[int]:
    """Return a turn up to and including its end token, without the padding behind it."""
    return turn[: turn.index(end) + 1] if end in turn else turn


def generate_where(
    model: Writer, processor: Processor, prompts: Mapping[int, EncodedPrompt], turn_tokens: int
) -> dict[int, list[int]]:
    """Generate one turn greedily for those rows of a batch that have a prompt.

    Args:
        model: the policy in eval mode.
        processor: the model's processor.
        prompts: row → encoded conversation so far; may be empty.
        turn_tokens: maximum length of a turn, in tokens.

    Returns:
        Row → token ids of its turn.
    """
    if not prompts:
        return {}
    turns = generate_turn(model, processor, list(prompts.values()), max_tokens=turn_tokens)
    return dict(zip(prompts, turns, strict=True))


def turn_text(tokenizer: PreTrainedTokenizerBase, turn: list[int]) -> str:
    """Decode the token ids of a turn, without special tokens."""
    return str(tokenizer.decode(turn, skip_special_tokens=True))
