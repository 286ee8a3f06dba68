"""Batches that must not be trained on: the run stops with their examples' names, and says so in a file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from iapo.config.schema import Config, TrainConfig
from iapo.data.prompts import prompt_messages
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.image_check import ImagesOutOfStep, check_images
from iapo.rollout.vllm import sampling_arguments
from iapo.training.guards import RolloutFault
from iapo.types import Example

IMAGE = 9


@pytest.mark.parametrize(
    ("ids", "counts", "grids", "rows"),
    [
        ([[1, 9, 9, 2]], [1], [[1, 2, 4]], None),
        ([[1, 9, 9, 2, 9], [9]], [2, 1], [[1, 2, 4], [1, 2, 2], [1, 2, 2]], None),
        ([[1, 2]], [0], None, None),
        ([[9], [1, 9, 2]], [1, 1], [[1, 2, 2], [1, 2, 4]], [1]),
        ([[9, 9, 1]], [2], [[1, 2, 2], [1, 2, 2]], [0]),
        ([[1, 9, 2, 9]], [1], [[1, 2, 2]], [0]),
        ([[1, 9, 9, 2, 9]], [2], [[1, 2, 2], [1, 2, 4]], [0]),
        ([[1, 9]], [1], None, []),
    ],
    ids=["right", "several", "text", "short", "run-together", "too-many", "swapped", "no-pixels"],
)
def test_image_tokens_are_held_against_the_images(
    ids: list[list[int]], counts: list[int], grids: list[list[int]] | None, rows: list[int] | None
) -> None:
    def check() -> None:
        pixels = None if grids is None else torch.tensor(grids)
        check_images(ids, counts, pixels, image_token=IMAGE, merge_size=2)

    if rows is None:
        check()
        return
    with pytest.raises(ImagesOutOfStep) as found:
        check()
    assert found.value.token_ids == {row: ids[row] for row in rows}


def fault(folder: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((folder / "fault.json").read_text())
    return written


def test_a_policy_that_writes_image_tokens_stops_the_run(make: Any, examples: list[Example], tmp_path: Path) -> None:
    trainer = make(generation_kwargs={"suppress_tokens": []})
    bias = torch.zeros(len(trainer.processing_class.tokenizer))
    bias[trainer.processing_class.image_token_id] = 1e4
    trainer.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    with pytest.raises(RolloutFault, match="found 8 turns in which the policy itself wrote image tokens"):
        trainer.train()
    found = fault(tmp_path)
    assert set(found["examples"]) == set(found["batch"]) == {example.example_id for example in examples}
    assert set(found["token_ids"][examples[0].example_id]) == {trainer.processing_class.image_token_id}


def test_the_second_turn_names_its_own_rows(
    make: Any, engine: Any, colocated: Any, examples: list[Example], tmp_path: Path
) -> None:
    # Only one example's prompt gets a scripted call.
    engine.script = dict(list(engine.script.items())[1:])
    trainer = make(use_vllm=True, generation_kwargs={"bad_words": list(SUPPRESSED_TOKENS)}, vllm_max_model_length=200)
    suffix = trainer._get_tool_suffix_ids

    def shortened(messages: Any) -> list[int]:
        ids = list(suffix(messages))
        ids.remove(engine.image)
        return ids

    trainer._get_tool_suffix_ids = shortened
    with pytest.raises(
        RolloutFault, match=f"step 0: found image tokens in runs of .* Examples: {examples[1].example_id}"
    ):
        trainer.train()
    found = fault(tmp_path)
    assert found["examples"] == [examples[1].example_id]
    assert set(found["batch"]) == {example.example_id for example in examples}


@pytest.fixture
def suppressed(tiny: tuple[Any, Any]) -> dict[str, Any]:
    return sampling_arguments(Config(profile="test"), TrainConfig(), tiny[1])


def test_a_loss_that_is_no_number_names_the_smaller_batch(
    make: Any, suppressed: dict[str, Any], examples: list[Example], tiny: tuple[Any, Any], tmp_path: Path
) -> None:
    lengths = {len(encode_prompt(tiny[1], prompt_messages(e), e.figure.kind).input_ids): e for e in examples}
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = make(save_strategy="steps", save_steps=1, **halves, **suppressed)
    compute = trainer._compute_loss
    bad: list[str] = []

    def loss(model: Any, inputs: dict[str, Any]) -> Tensor:
        value: Tensor = compute(model, inputs)
        if trainer.state.global_step == 1 and 5 in inputs["rollout_index"]:
            bad.extend(lengths[length].example_id for length in inputs["prompt_mask"].sum(1).tolist())
            return value * torch.nan
        return value

    trainer._compute_loss = loss
    with pytest.raises(RolloutFault, match=r"step 1: found a loss of nan\. Examples: .*checkpoint-1"):
        trainer.train()
    found = fault(tmp_path)
    assert len(lengths) == len(bad) / 2 == 2
    assert [found["batch"][i] for i in found["rows"]] == bad and found["examples"] == list(dict.fromkeys(bad))
    assert found["step"] == 1 and len(found["rewards"]) == 8 and len(found["advantages"]) == 4
    assert found["last_checkpoint"] == str(tmp_path / "checkpoint-1")


def test_a_gradient_that_is_no_number_never_reaches_the_weights(
    make: Any, suppressed: dict[str, Any], tmp_path: Path
) -> None:
    trainer = make(**suppressed)
    weight = trainer.model.get_input_embeddings().weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(RolloutFault, match="step 0: found a gradient of norm nan"):
        trainer.train()
    assert torch.equal(weight, before) and fault(tmp_path)["last_checkpoint"] is None
