"""Rollouts by vLLM through TRL, with every image expanded to its tokens once, and the sampling's arguments.

TRL tokenizes a prompt with the processor, which writes one image token per merged patch, and its loss wants the ids so.
Colocated, TRL hands these ids to vLLM together with the image, and vLLM expands the first image token again (4 tokens
become 7, of two images the second lands in the first; open upstream as TRL's issues 6294 and 6718). A server is sent
processed images and takes the ids as they are. In both modes vLLM goes on using an image's features from before a
weight update (TRL's issue 7198). See docs/vllm.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from trl.generation.vllm_generation import VLLMGeneration

from iapo.config import Config, TrainConfig
from iapo.env import tool_schemas
from iapo.faults import ImagesOutOfStep, image_runs
from iapo.processor import UNSAMPLED_TOKENS
from iapo.prompts import prompt_messages, undecoded_image
from iapo.types import Example

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object


def sampling_arguments(
    config: Config, settings: TrainConfig, processor: Any, *, prompt_tokens: int | None = None
) -> dict[str, Any]:
    """TRL's arguments that say who generates and which tokens no policy may sample.

    Args:
        config: of the run.
        settings: of this GRPO run, with a completion length.
        processor: the model's.
        prompt_tokens: of the longest training prompt (:func:`longest_prompt`); None leaves vLLM the model's own
            context, which for Qwen2.5-VL is 128,000 tokens, and it asks for the memory to hold them.
    """
    if settings.rollouts == "transformers":
        unsampled = processor.tokenizer.convert_tokens_to_ids(list(UNSAMPLED_TOKENS))
        return {"generation_kwargs": {"suppress_tokens": unsampled}}
    # vLLM masks a word of one token as transformers masks a suppressed one; `logit_bias` would only discourage it.
    arguments: dict[str, Any] = {"use_vllm": True, "generation_kwargs": {"bad_words": list(UNSAMPLED_TOKENS)}}
    if settings.rollouts == "vllm_server":
        return {**arguments, "vllm_mode": "server", "vllm_server_base_url": config.hardware.vllm_server}
    arguments |= {"vllm_mode": "colocate", "vllm_gpu_memory_utilization": config.hardware.vllm_memory}
    if prompt_tokens is not None and settings.max_completion_length is not None:
        arguments["vllm_max_model_length"] = prompt_tokens + settings.max_completion_length
    return arguments


def longest_prompt(processor: Any, examples: Sequence[Example]) -> int:
    """Tokens of the longest of some prompts, images expanded; no image is decoded.

    Args:
        processor: the model's.
        examples: questions, one at least.
    """
    return max(_prompt_length(processor, example) for example in examples)


def _prompt_length(processor: Any, example: Example) -> int:
    image = undecoded_image(example)
    text = processor.apply_chat_template(
        prompt_messages(example, image), tools=list(tool_schemas(example.figure.kind)), add_generation_prompt=True
    )
    patches = processor.image_processor.get_number_of_image_patches(image.height, image.width)
    # The text has one image token in the place of all.
    return len(processor.tokenizer(text)["input_ids"]) - 1 + int(patches // processor.image_processor.merge_size**2)


def collapse_images(ids: Sequence[int], image_token: int) -> list[int]:
    """The ids with one token for each run of image tokens, as vLLM takes them beside an image."""
    return [each for token, run in groupby(ids) for each in ([token] if token == image_token else run)]


class FigureGeneration(VLLMGeneration):
    """TRL's side of vLLM, where it sees an image as the loss does: the same tokens, and features of today's weights."""

    def generate(self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None) -> Any:
        """As TRL's: prompt ids, completion ids, log-probabilities and their token ids.

        Raises:
            ImagesOutOfStep: where vLLM has read other ids than the loss will.
        """
        if self.mode == "server":
            return super().generate(prompts, images, num_generations, profiler)
        token = self._image_token
        collapsed = [collapse_images(ids, token) for ids in prompts]
        read, *output = super().generate(collapsed, images, num_generations, profiler)
        wrong = {i: seen for i, (ids, seen) in enumerate(zip(prompts, read, strict=True)) if ids != list(seen)}
        if wrong:
            row, seen = next(iter(wrong.items()))
            found, expected = image_runs(seen, token), image_runs(prompts[row], token)
            raise ImagesOutOfStep(f"found vLLM reading image tokens in runs of {found}, the loss has {expected}", wrong)
        return prompts, *output

    def sync_weights(self) -> None:
        """As TRL's. vLLM keeps what the vision tower made of an image, and TRL leaves that from the weights before."""
        super().sync_weights()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        elif self.accelerator.is_main_process:
            address = f"{self.vllm_client.base_url}/reset_encoder_cache"
            self.vllm_client.session.post(address).raise_for_status()

    @property
    def _image_token(self) -> int:
        processor: Any = self.processing_class
        return int(processor.image_token_id)

    def _place_features(self, features: dict[str, Any] | None, prompt_ids: list[int]) -> Any:
        # TRL gives the server the trainer's lengths; from a longer image vLLM would take the first tokens unasked.
        if features is not None:
            made = [place["length"] for place in features["mm_placeholders"]["image"]]
            runs = image_runs(prompt_ids, self._image_token)
            if made != runs:
                raise ImagesOutOfStep(f"found the vLLM server making {made} tokens of images, the loss has {runs}")
        return super()._place_features(features, prompt_ids)


class VllmMixin(_Trainer):
    """Goes in front of a ``GRPOTrainer`` of a Qwen2.5-VL; without ``use_vllm`` it does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.use_vllm:
            # TRL makes the object itself and takes no other class for it; this one adds methods, no state.
            self.vllm_generation.__class__ = FigureGeneration
