"""A saved policy that vLLM runs outside training, several times as fast as transformers where many questions wait.

Images are expanded once, as in training (:mod:`iapo.rollout.vllm`, docs/vllm.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

from iapo.config.sources import Precision
from iapo.models.interfaces import PixelBounds, Processor
from iapo.rollout.encoding import EncodedPrompt
from iapo.rollout.generation import Sampling
from iapo.rollout.image_check import check_read
from iapo.rollout.vllm import collapse_images

_MEMORY = 0.9
"""Share of the GPU's memory: nothing else is on it."""

_IMAGES = 8
"""Most images of one prompt: the figure, and one for every call of a turn."""


class VllmEngine:
    """A policy in vLLM, in this process."""

    def __init__(
        self, directory: Path, *, precision: Precision, seed: int = 0, pixels: PixelBounds | None = None
    ) -> None:
        """Start the engine.

        Args:
            directory: pretrained directory of the policy and its processor.
            precision: dtype of the weights.
            seed: of what is sampled.
            pixels: bounds on an image's area other than the saved processor's.
        """
        bounds = {"mm_processor_kwargs": {"min_pixels": pixels[0], "max_pixels": pixels[1]}} if pixels else {}
        self._engine = LLM(
            model=str(directory),
            dtype=precision,
            seed=seed,
            gpu_memory_utilization=_MEMORY,
            # The model's own, 128,000 tokens for Qwen2.5-VL, or as many as the memory has room for.
            max_model_len=-1,
            limit_mm_per_prompt={"image": _IMAGES},
            # Not the checkpoint's own settings, which may have a penalty of repetitions.
            generation_config="vllm",
            **bounds,
        )

    def write_turns(
        self,
        processor: Processor,
        prompts: Sequence[EncodedPrompt],
        *,
        max_tokens: int,
        sampling: Sampling | None,
        suppressed: Sequence[str],
    ) -> list[list[int]]:
        """Generate one assistant turn for each prompt; arguments and result are those of
        :func:`iapo.rollout.generation.generate_turn`.

        Raises:
            ImagesOutOfStep: if vLLM read other prompt ids than these.
        """
        image_token = processor.image_token_id
        given: list[Any] = [
            {
                "prompt_token_ids": collapse_images(prompt.input_ids, image_token),
                "multi_modal_data": {"image": list(prompt.images)},
            }
            for prompt in prompts
        ]
        temperature, top_p = (sampling.temperature, sampling.top_p) if sampling else (0.0, 1.0)
        # It masks a word of one token.
        settings = SamplingParams(
            temperature=temperature, top_p=top_p, max_tokens=max_tokens, bad_words=list(suppressed)
        )
        outputs = self._engine.generate(given, settings, use_tqdm=False)
        read = [list(output.prompt_token_ids or ()) for output in outputs]
        check_read(read, [prompt.input_ids for prompt in prompts], image_token)
        return [list(output.outputs[0].token_ids) for output in outputs]
