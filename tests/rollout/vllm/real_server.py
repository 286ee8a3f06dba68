"""TRL's client and ``FigureGeneration`` at a real vLLM server; run by ``test_real`` with the server up.

    python real_server.py ADDRESS MODEL DATA OUT

writes OUT, JSON. The weights are not sent: NCCL needs GPUs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from forward_pass import difference
from trl.generation.vllm_client import VLLMClient

from iapo.artifacts.files import write_json
from iapo.cold_start.demonstrations import run_call
from iapo.data.prompts import open_image, prompt_messages
from iapo.data.store import read_split
from iapo.models.loading import load_model
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.image_check import ImagesOutOfStep
from iapo.rollout.turns import turn_ids
from iapo.rollout.two_turn import continue_prompt
from iapo.rollout.vllm import FigureGeneration
from iapo.tools.parsing import render_call
from iapo.types import ToolCall


def main(address: str, start: Path, data: Path, output: Path) -> None:
    model, processor = load_model(start)
    VLLMClient.init_communicator = lambda self, device: None  # type: ignore[method-assign]
    generation = FigureGeneration(
        model=model,
        accelerator=Accelerator(cpu=True),
        processing_class=processor,
        mode="server",
        server_base_url=address,
        max_completion_length=8,
        generation_kwargs={"bad_words": list(SUPPRESSED_TOKENS)},
    )
    example = next(e for e in read_split(data, "test", ("vwtq",)))
    image = open_image(example)
    call = ToolCall("focus_on_rows_with_mask", (next(iter(example.figure.boxes["rows"])),))
    first = encode_prompt(processor, prompt_messages(example), example.figure.kind)
    answer = run_call(example, image, call)
    second = continue_prompt(processor, first, turn_ids(processor.tokenizer, render_call(call)), answer)
    edited = answer[0]["content"][0]["image"]
    found: dict[str, Any] = {"same_ids": [], "differences": []}
    for prompt, images, copies in [(first, [image], 4), (second, [image, edited], 1)]:
        read, turns, logprobs, _ = generation.generate([prompt.input_ids] * copies, [images] * copies, copies)
        found["same_ids"].append(read == [prompt.input_ids] * copies)
        found["differences"] += [
            difference(model, processor, prompt, turn, torch.tensor([place[0] for place in places]))
            for turn, places in zip(turns, logprobs, strict=True)
        ]
    shorter = list(first.input_ids)
    shorter.remove(processor.image_token_id)
    try:
        generation.generate([shorter], [[image]], 1)
    except ImagesOutOfStep as error:
        found["out_of_step"] = str(error)
    address = f"{generation.vllm_client.base_url}/reset_encoder_cache"
    found["reset"] = generation.vllm_client.session.post(address).status_code
    write_json(output, found)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
