"""Two GRPO steps with a real vLLM in the trainer's process, then greedy turns beside transformers' own; run by
``test_real``, in a process of its own since vLLM joins torch.distributed and stays there.

    python real_vllm.py DATA WORK

writes WORK/figures.json. DATA is a built data directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# The engine's model must be in this process: TRL puts the weights into it by hand.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}

import torch
from datasets import Dataset
from forward_pass import difference, forward
from torch import Tensor
from trl import GRPOConfig
from trl.generation import vllm_generation
from vllm import LLM, SamplingParams
from vllm.model_executor.layers import utils as layers

from iapo.artifacts.files import write_json
from iapo.cold_start.demonstrations import run_call
from iapo.config.method import TrainConfig
from iapo.config.mini_world import ModelConfig
from iapo.config.schema import Config
from iapo.data.prompts import open_image, prompt_messages
from iapo.data.selection import dataset_row
from iapo.data.store import read_split
from iapo.models.loading import load_model, save_model
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.models.tiny import build_model
from iapo.rollout.encoding import EncodedPrompt, encode_prompt
from iapo.rollout.environment import ENVIRONMENTS
from iapo.rollout.generation import generate_turn
from iapo.rollout.image_check import image_runs
from iapo.rollout.lengths import longest_prompt
from iapo.rollout.turns import turn_ids
from iapo.rollout.two_turn import continue_prompt
from iapo.rollout.vllm import collapse_images, sampling_arguments
from iapo.tools.parsing import render_call
from iapo.training.trainer import FigureTrainer
from iapo.types import Example, ToolCall

COMPLETION = 60
TURN = 8
TAUGHT = 20
"""Steps: most rollouts call, and not all alike."""


def total(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


def first_call(example: Example, family: Any) -> ToolCall:
    return ToolCall(f"focus_on_{family}_with_mask", (next(iter(example.figure.boxes[family])),))


def teach(model: Any, processor: Any, prompts: Sequence[EncodedPrompt], calls: Sequence[ToolCall]) -> None:
    """Have the policy learn one call for each prompt by heart, so that rollouts have second turns."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    turns = [turn_ids(processor.tokenizer, render_call(call)) for call in calls]
    for _ in range(TAUGHT):
        for prompt, turn in zip(prompts, turns, strict=True):
            logits = forward(model, processor, prompt, turn)
            torch.nn.functional.cross_entropy(logits, torch.tensor(turn)).backward()
        optimizer.step()
        optimizer.zero_grad()


def greedy(llm: Any, ids: list[int], images: list[Any]) -> tuple[list[int], list[int], Tensor]:
    """Ids read, turn, and its log-probabilities."""
    settings = SamplingParams(temperature=0, max_tokens=TURN, logprobs=0, bad_words=list(SUPPRESSED_TOKENS))
    (output,) = llm.generate(
        [{"prompt_token_ids": ids, "multi_modal_data": {"image": images}}], settings, use_tqdm=False
    )
    turn = output.outputs[0]
    values = [place[token].logprob for token, place in zip(turn.token_ids, turn.logprobs, strict=True)]
    return list(output.prompt_token_ids), list(turn.token_ids), torch.tensor(values)


@torch.no_grad()
def compare(llm: Any, model: Any, processor: Any, prompt: EncodedPrompt, images: list[Any]) -> dict[str, Any]:
    """vLLM's greedy turn from ids with one image token an image, and from expanded ids, beside transformers'."""
    image = processor.image_token_id
    read, turn, values = greedy(llm, collapse_images(prompt.input_ids, image), images)
    read_twice, turn_twice, values_twice = greedy(llm, prompt.input_ids, images)
    (own,) = generate_turn(model, processor, [prompt], max_tokens=TURN)
    return {
        "images": len(images),
        "same_ids": read == prompt.input_ids,
        "same_turn": turn == own,
        "difference": difference(model, processor, prompt, turn, values),
        "runs": image_runs(prompt.input_ids, image),
        "runs_of_expanded": image_runs(read_twice, image),
        "difference_of_expanded": difference(model, processor, prompt, turn_twice, values_twice),
    }


def image_tokens_sampled(llm: Any, processor: Any, prompt: EncodedPrompt, image: Any, bad_words: list[str]) -> int:
    """How many image tokens are among those drawn from logits that favour them."""
    banned = processor.tokenizer.convert_tokens_to_ids(list(SUPPRESSED_TOKENS))
    settings = SamplingParams(max_tokens=TURN, logit_bias=dict.fromkeys(banned, 20.0), bad_words=bad_words)
    ids = collapse_images(prompt.input_ids, processor.image_token_id)
    prompts = [{"prompt_token_ids": ids, "multi_modal_data": {"image": image}}]
    (output,) = llm.generate(prompts, settings, use_tqdm=False)
    return sum(token in banned for token in output.outputs[0].token_ids)


def keep_weights(layer: Any, remove_weight: bool) -> None:
    """On a CPU vLLM packs a layer's weights and drops them, where TRL's synchronisation looks for them."""
    layer.cpu_linear = torch.nn.functional.linear


def main(data: Path, run_dir: Path) -> None:
    layers.dispatch_cpu_unquantized_gemm = keep_weights
    found = read_split(data, "test", ("h_bar", "vwtq"))
    examples = [next(e for e in found if e.test_set == name) for name in ("h_bar", "vwtq")]
    calls = [first_call(example, family) for example, family in zip(examples, ("y_values", "rows"), strict=True)]
    model, processor = build_model(ModelConfig(hidden_size=128, vision_depth=1), seed=0)
    prompts = [encode_prompt(processor, prompt_messages(e), e.figure.kind) for e in examples]
    teach(model, processor, prompts, calls)
    save_model(model, processor, run_dir / "model")

    # TRL leaves the precision to vLLM, which would choose bfloat16, and compiles.
    vllm_generation.LLM = partial(LLM, dtype="float32", enforce_eager=True)
    settings = TrainConfig(rollouts="vllm_colocate", max_completion_length=COMPLETION)
    longest = longest_prompt(processor, examples)
    model, processor = load_model(run_dir / "model")
    trainer = FigureTrainer(
        model=model,
        processing_class=processor,
        args=GRPOConfig(
            output_dir=str(run_dir), max_steps=2, per_device_train_batch_size=8, num_generations=4, seed=0,
            max_completion_length=COMPLETION, max_tool_calling_iterations=1, learning_rate=1e-3, report_to="none",
            use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", disable_tqdm=True,
            logging_steps=1, **sampling_arguments(Config(profile="t"), settings, processor, prompt_tokens=longest),
        ),
        train_dataset=Dataset.from_list([dataset_row(example) for example in examples]),
        reward_funcs=[total],
        environment_factory=ENVIRONMENTS,
    )  # fmt: skip
    before = trainer.model.get_input_embeddings().weight.detach().clone()
    trainer.train()
    steps = [row for row in trainer.state.log_history if "reward" in row]

    llm = trainer.vllm_generation.llm
    trainer.vllm_generation.sync_weights()
    model.eval()
    pairs = []
    for example, prompt, call in zip(examples, prompts, calls, strict=True):
        image = open_image(example)
        answer = run_call(example, image, call)
        turn = turn_ids(processor.tokenizer, render_call(call))
        second = continue_prompt(processor, prompt, turn, answer)
        pairs += [(prompt, [image]), (second, [image, answer[0]["content"][0]["image"]])]
    write_json(
        run_dir / "figures.json",
        {
            "logp_differences": [row["sampling/logp_difference_max"] for row in steps],
            "moved": (trainer.model.get_input_embeddings().weight - before).abs().max().item(),
            "calls": [row["tools/call_frequency"] for row in steps],
            "image_tokens": [
                image_tokens_sampled(llm, processor, prompts[0], pairs[0][1][0], words)
                for words in ([], list(SUPPRESSED_TOKENS))
            ],
            "greedy": [compare(llm, model, processor, prompt, images) for prompt, images in pairs],
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
