"""Integrated gradients per block, against captum and against the theory."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iapo.alignment import distribution, divergence
from iapo.attribution import _path, _target_log_probability, attribute
from iapo.blocks import block_ids
from iapo.config import AttributionConfig
from iapo.env import tool_schemas
from iapo.prompts import prompt_messages
from iapo.rollout import encode_prompt
from iapo.tools import render_call
from iapo.trainer import PromptInputs, ToolTurn, calls_batch
from iapo.types import Example, ToolCall


def turn(processor: Any, example: Example) -> ToolTurn:
    messages, kind = prompt_messages(example), example.figure.kind
    encoded = encode_prompt(processor, messages, kind)
    blocks = block_ids(processor, messages, list(tool_schemas(kind)), encoded.input_ids)
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    fields = {
        "pixel_values": encoded.pixel_values,
        "image_grid_thw": encoded.image_grid_thw,
        "mm_token_type_ids": [[int(token == image) for token in encoded.input_ids]],
    }
    family = next(family for family, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)
    text = render_call(ToolCall(f"focus_on_{family}_with_mask", example.focus_labels))
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"] + [processor.tokenizer.eos_token_id]
    return ToolTurn(PromptInputs(encoded.input_ids, fields, blocks), ids, text)


@pytest.fixture(scope="module")
def turns(tiny: tuple[Any, Any], test_examples: list[Example]) -> list[ToolTurn]:
    return [turn(tiny[1], example) for example in test_examples[::40]]


@pytest.fixture(scope="module")
def batch(tiny: tuple[Any, Any], turns: list[ToolTurn]) -> dict[str, Tensor]:
    return calls_batch(turns, tiny[1].tokenizer, "cpu")


POINTS = AttributionConfig(points=8, tolerance=1e9)


def test_block_sums_agree_with_captum(tiny: tuple[Any, Any], batch: dict[str, Tensor]) -> None:
    model, _ = tiny
    ours = attribute(model, batch, config=POINTS).signed
    path = _path(model, batch)

    def log_probability(embeddings: Tensor) -> Tensor:
        copies = len(embeddings) // len(path.ids_BL)
        repeated = replace(
            path,
            positions_3BL=path.positions_3BL.repeat(1, copies, 1),
            attention_BL=path.attention_BL.repeat(copies, 1),
            ids_BL=path.ids_BL.repeat(copies, 1),
            target_BL=path.target_BL.repeat(copies, 1),
        )
        return _target_log_probability(model, repeated, embeddings)

    theirs = IntegratedGradients(log_probability).attribute(
        path.inputs_BLD, path.inputs_BLD - path.difference_BLD, n_steps=8, method="riemann_middle"
    )
    blocks = [(theirs.sum(-1) * (batch["block_ids"] == k)).sum(1) for k in range(4)]
    assert torch.allclose(ours, torch.stack(blocks, 1).double(), atol=1e-5)
    assert (ours.abs().sum(0) > 0).all()


def test_completeness_holds_with_many_points(tiny: tuple[Any, Any], batch: dict[str, Tensor]) -> None:
    result = attribute(tiny[0], batch, config=AttributionConfig(points=64))
    assert result.residual.max() < 0.02
    assert torch.allclose(result.signed.sum(1), result.delta_f, atol=0.02)


def test_tripled_rows_equal_three_times_the_points(tiny: tuple[Any, Any], batch: dict[str, Tensor]) -> None:
    tripled = attribute(tiny[0], batch, config=AttributionConfig(points=4, tolerance=1e-12))
    direct = attribute(tiny[0], batch, config=AttributionConfig(points=12, tolerance=1e9))
    assert torch.allclose(tripled.signed, direct.signed, atol=1e-6)


def test_batches_chunks_and_padding_change_nothing(
    tiny: tuple[Any, Any], turns: list[ToolTurn], batch: dict[str, Tensor]
) -> None:
    together = attribute(tiny[0], batch, config=POINTS).signed
    chunked = attribute(tiny[0], batch, config=replace(POINTS, rows_per_forward=5)).signed
    alone = [attribute(tiny[0], calls_batch([t], tiny[1].tokenizer, "cpu"), config=POINTS).signed for t in turns]
    assert torch.allclose(together, chunked, atol=1e-6)
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_the_model_is_left_as_it_was(tiny: tuple[Any, Any], batch: dict[str, Tensor]) -> None:
    model, _ = tiny
    model.train()
    with torch.no_grad():
        attribute(model, batch, config=POINTS)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    model.eval()


def test_wrong_shapes_are_named(tiny: tuple[Any, Any], batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="block_ids has shape"):
        attribute(tiny[0], {**batch, "block_ids": batch["block_ids"][:, 1:]}, config=POINTS)


SUMS = st.lists(st.floats(-9, 9), min_size=4, max_size=4)


@given(SUMS, SUMS)
def test_divergences_are_not_negative_and_zero_between_equals(a: list[float], b: list[float]) -> None:
    p, q = distribution(torch.tensor([a, b]), 1e-3)
    assert torch.isclose(p.sum(), torch.tensor(1.0).double())
    for kind in ("js", "kl_student_teacher", "kl_teacher_student"):
        assert divergence(p, q, kind) >= 0 and divergence(p, p, kind) < 1e-12
    assert divergence(p, q, "js") <= 1
    assert torch.isclose(divergence(p, q, "js"), divergence(q, p, "js"))
