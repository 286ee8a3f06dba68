"""Sums of integrated gradients over blocks, compared with captum, with a slow reference and with the theory."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.attribution.partition import block_ids
from iapo.config.schema import AttributionConfig
from iapo.data.prompts import prompt_messages
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.environment import tool_schemas
from iapo.rollout.turns import PromptInputs, ToolTurn
from iapo.tools.parsing import render_call
from iapo.types import BlockAttribution, Example, ToolCall

Batch = dict[str, Tensor]
Collate = Callable[..., Batch]
Merged = tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]

POINTS = AttributionConfig(n_steps=8, quadrature="midpoint", tolerance=1e9, control_variate=False, magnitudes=True)
"""Never refines."""


def same(one: BlockAttribution, other: BlockAttribution) -> bool:
    # Log-probabilities of around −20 nats carry more fp32 rounding than their gradients.
    tolerances = {"signed": 1e-6, "l1": 1e-6, "convergence_delta": 1e-5, "delta_f": 1e-5}
    return all(
        torch.allclose(getattr(one, name), getattr(other, name), atol=atol, rtol=0) for name, atol in tolerances.items()
    )


def merged(model: Any, batch: Batch) -> Merged:
    """One row's input, its difference from the baseline, and log p(target) of embeddings [A, L, D].

    Independent of the module under test: embeddings and positions are those that the language model receives
    in an ordinary forward pass on ids and pixels.
    """
    seen: dict[str, Tensor] = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.update({k: v for k, v in kwargs.items() if torch.is_tensor(v)}),
        with_kwargs=True,
    )
    inputs = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
    with torch.no_grad():
        model(**{name: batch[name] for name in inputs if name in batch})
    hook.remove()
    ids, target = batch["input_ids"][0], batch["target_mask"][0]
    inputs_LD = seen["inputs_embeds"][0].detach()
    pad = model.config.get_text_config().pad_token_id
    baseline_LD = model.get_input_embeddings().weight[pad].detach().expand_as(inputs_LD).clone()
    start = 0
    image = (ids == model.config.image_token_id).nonzero()[:, 0]
    for t, height, width in batch["image_grid_thw"].tolist() if "image_grid_thw" in batch else []:
        tokens = image[start : start + t * height * width // 4]
        baseline_LD[tokens] = inputs_LD[tokens].mean(0)
        start += len(tokens)
    difference_LD = (inputs_LD - baseline_LD) * (batch["block_ids"][0] >= 0)[:, None]

    def log_probability(embeddings: Tensor) -> Tensor:
        # Without images the language model counts the positions itself.
        positions = seen["position_ids"].repeat(1, len(embeddings), 1) if "position_ids" in seen else None
        hidden = model.model.language_model(inputs_embeds=embeddings, position_ids=positions).last_hidden_state
        log_p = model.lm_head(hidden).log_softmax(-1)
        where = target.nonzero()[:, 0]
        return log_p[:, where - 1, ids[where]].sum(1)

    return inputs_LD, difference_LD, log_probability


def slow_reference(model: Any, batch: Batch, points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Signed and L1 block sums and Δf of one row, one path point at a time."""
    inputs, difference, log_probability = merged(model, batch)
    tokens = torch.zeros(len(inputs), dtype=torch.float64)
    for i in range(points):
        point = (inputs - (1 - (i + 0.5) / points) * difference).requires_grad_(True)
        log_probability(point[None]).sum().backward()
        assert point.grad is not None
        tokens += (point.grad.double() * difference.double()).sum(-1) / points
    model.zero_grad()
    with torch.no_grad():
        delta = log_probability(inputs[None]) - log_probability((inputs - difference)[None])
    blocks = [batch["block_ids"][0] == k for k in range(4)]
    signed = torch.stack([tokens[block].sum() for block in blocks])
    l1 = torch.stack([tokens[block].abs().sum() for block in blocks])
    return signed, l1, delta[0].double()


@pytest.mark.parametrize("index", [0, 1, 2], ids=["one image", "two images, two spans", "no image"])
def test_block_sums_agree_with_a_slow_reference(
    tiny_model: Any, tiny_rows: list[Any], tiny_batch: Batch, collate: Collate, index: int
) -> None:
    ours = attribute(tiny_model, tiny_batch, config=POINTS)
    signed, l1, delta = slow_reference(tiny_model, collate([tiny_rows[index]]), POINTS.n_steps)
    assert torch.allclose(ours.signed[index], signed, atol=1e-5)
    assert torch.allclose(ours.l1[index], l1, atol=1e-5)
    assert torch.allclose(ours.delta_f[index], delta, atol=1e-5)
    assert (signed != 0).tolist() == [True, True, index < 2, True]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_block_sums_agree_with_captum(tiny_model: Any, tiny_rows: list[Any], collate: Collate, index: int) -> None:
    batch = collate([tiny_rows[index]])
    inputs, difference, log_probability = merged(tiny_model, batch)
    theirs = IntegratedGradients(log_probability).attribute(
        inputs[None], (inputs - difference)[None], n_steps=8, method="riemann_middle"
    )
    blocks = [theirs[0, batch["block_ids"][0] == k].sum().double() for k in range(4)]
    ours = attribute(tiny_model, batch, config=POINTS).signed[0]
    assert torch.allclose(ours, torch.stack(blocks), atol=1e-5)


def test_completeness_improves_with_points(tiny_model: Any, tiny_batch: Batch) -> None:
    few = attribute(tiny_model, tiny_batch, config=replace(POINTS, n_steps=1))
    many = attribute(tiny_model, tiny_batch, config=replace(POINTS, n_steps=256))
    assert many.convergence_delta.max() < 1e-3 < few.convergence_delta.min()
    assert torch.allclose(many.signed.sum(1), many.delta_f, atol=2e-3)
    expected = (few.signed.sum(1) - few.delta_f).abs() / few.delta_f.abs().clamp(min=0.5)
    assert torch.allclose(few.convergence_delta, expected, atol=1e-12)
    assert few.signed.dtype == few.l1.dtype == few.convergence_delta.dtype == few.delta_f.dtype == torch.float64


@pytest.mark.parametrize("points", [2, 3])
def test_gauss_legendre_points_are_replaced_by_three_times_as_many(
    tiny_model: Any, tiny_batch: Batch, points: int
) -> None:
    config = replace(POINTS, n_steps=points, quadrature="gauss_legendre")
    refined = attribute(tiny_model, tiny_batch, config=replace(config, tolerance=1e-12))
    assert same(refined, attribute(tiny_model, tiny_batch, config=replace(config, n_steps=3 * points)))


def test_points_are_added_only_where_the_whole_is_missed(tiny_model: Any, tiny_batch: Batch) -> None:
    config = replace(POINTS, n_steps=3)
    coarse, fine = (attribute(tiny_model, tiny_batch, config=replace(config, tolerance=t)) for t in (1e9, 1e-12))
    assert not torch.isclose(coarse.signed, fine.signed).all(1).any()
    tolerance, changed = 1.0, torch.zeros(3, dtype=torch.bool)
    while not changed.any():
        tolerance /= 1.5
        some = attribute(tiny_model, tiny_batch, config=replace(config, tolerance=tolerance))
        changed = ~torch.isclose(some.signed, coarse.signed, atol=1e-7).all(1)
    # The first row to be missed is the only one that is asked again.
    assert changed.sum() == 1 and same(replace_rows(some, coarse, changed), coarse)


def replace_rows(some: BlockAttribution, other: BlockAttribution, rows: Tensor) -> BlockAttribution:
    parts = ("signed", "l1", "convergence_delta", "delta_f", "log_p")
    found = {name: getattr(some, name).clone() for name in parts}
    for name, values in found.items():
        values[rows] = getattr(other, name)[rows]
    return BlockAttribution(**found)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 5])
def test_padding_changes_nothing(
    tiny_model: Any, tiny_rows: list[Any], tiny_batch: Batch, collate: Collate, side: str, extra: int
) -> None:
    padded = attribute(tiny_model, collate(tiny_rows, side, extra), config=POINTS)
    assert same(attribute(tiny_model, tiny_batch, config=POINTS), padded)


@pytest.mark.parametrize("tolerance", [1e9, 1e-12], ids=["plain", "refined"])
@pytest.mark.parametrize("tokens_per_forward", [1, 40, 100, 700])
def test_chunks_change_nothing(
    tiny_model: Any, tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch, tokens_per_forward: int, tolerance: float
) -> None:
    config = replace(POINTS, tolerance=tolerance)
    whole = attribute(tiny_model, tiny_batch, config=config)
    sizes: list[int] = []
    forward = type(tiny_model).forward

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(kwargs["inputs_embeds"][..., 0].numel())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny_model), "forward", recorded)
    chunked = attribute(tiny_model, tiny_batch, config=replace(config, tokens_per_forward=tokens_per_forward))
    assert same(whole, chunked)
    longest = int(tiny_batch["attention_mask"].sum(1).max())
    assert max(sizes) <= max(tokens_per_forward, longest)


def test_a_batch_equals_its_rows_one_by_one(
    tiny_model: Any, tiny_rows: list[Any], tiny_batch: Batch, collate: Collate
) -> None:
    together = attribute(tiny_model, tiny_batch, config=AttributionConfig())
    alone = [attribute(tiny_model, collate([row]), config=AttributionConfig()) for row in tiny_rows]
    for i, one in enumerate(alone):
        assert same(BlockAttribution(*(t[i : i + 1] for t in vars(together).values())), one)


def test_a_row_without_a_target_is_zero(
    tiny_model: Any, tiny_rows: list[Any], targetless: Any, collate: Collate
) -> None:
    for rows in ([tiny_rows[1], targetless], [targetless]):
        result = attribute(tiny_model, collate(rows), config=POINTS)
        assert all((tensor[-1] == 0).all() for tensor in vars(result).values())
    mixed = attribute(tiny_model, collate([tiny_rows[1], targetless]), config=POINTS)
    alone = attribute(tiny_model, collate([tiny_rows[1]]), config=POINTS)
    assert torch.allclose(mixed.signed[0], alone.signed[0], atol=1e-6)


def test_signed_sums_of_spans_add_up(tiny_model: Any, tiny_rows: list[Any], collate: Collate) -> None:
    row = tiny_rows[1]
    first_end = row.target.index(False, row.target.index(True))
    first = tuple(marked and i < first_end for i, marked in enumerate(row.target))
    second = tuple(marked and i >= first_end for i, marked in enumerate(row.target))
    rows = [row, replace(row, target=first), replace(row, target=second)]
    both, one, other = attribute(tiny_model, collate(rows), config=POINTS).signed
    assert torch.allclose(both, one + other, atol=1e-6)
    assert one.abs().sum() > 0 and other.abs().sum() > 0


def test_the_model_is_left_as_it_was(tiny_model: Any, tiny_batch: Batch) -> None:
    expected = attribute(tiny_model, tiny_batch, config=POINTS)
    weight = tiny_model.lm_head.weight
    tiny_model.train()
    tiny_model.model.visual.eval()
    weight.grad = kept = torch.ones_like(weight)
    try:
        with torch.no_grad():
            result = attribute(tiny_model, tiny_batch, config=POINTS)
        assert tiny_model.training and tiny_model.model.language_model.training
        assert not tiny_model.model.visual.training
        assert weight.grad is kept and bool((kept == 1).all())
        assert all(p.grad is None for p in tiny_model.parameters() if p is not weight)
        assert all(p.requires_grad for p in tiny_model.parameters())
    finally:
        weight.grad = None
        tiny_model.eval()
    assert same(expected, result)


def test_the_mode_is_restored_after_an_error(tiny_model: Any, tiny_batch: Batch) -> None:
    tiny_model.train()
    with pytest.raises(ValueError, match="image tokens"):
        attribute(tiny_model, {**tiny_batch, "image_grid_thw": tiny_batch["image_grid_thw"][:-1],
                               "pixel_values": tiny_batch["pixel_values"][:-8]}, config=POINTS)  # fmt: skip
    assert tiny_model.training
    tiny_model.eval()


def test_bfloat16_weights_give_nearly_the_same(tiny_model: Any, tiny_batch: Batch) -> None:
    exact = attribute(tiny_model, tiny_batch, config=POINTS)
    tiny_model.bfloat16()
    try:
        rough = attribute(tiny_model, tiny_batch, config=POINTS)
    finally:
        tiny_model.float()
    scale = exact.signed.abs().max()
    assert rough.signed.dtype == torch.float64
    assert (rough.signed - exact.signed).abs().max() < 0.2 * scale


def test_a_zero_pad_embedding_is_warned_of(tiny_model: Any, tiny_batch: Batch) -> None:
    pad = tiny_model.get_input_embeddings().weight.data[0]
    kept = pad.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribute(tiny_model, tiny_batch, config=POINTS)
    try:
        pad.zero_()
        with pytest.warns(RuntimeWarning, match="pad token's embedding is zero"):
            attribute(tiny_model, tiny_batch, config=POINTS)
    finally:
        pad.copy_(kept)


def without(name: str) -> Callable[[Batch], Batch]:
    return lambda batch: {key: value for key, value in batch.items() if key != name}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Batch], Batch]:
    return lambda batch: {**batch, name: change(batch[name].clone())}


def first_column(value: Any) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.cat([torch.full_like(tensor[:, :1], value), tensor[:, 1:]], 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("input_ids"), "no 'input_ids'"),
        (without("mm_token_type_ids"), "no 'mm_token_type_ids'"),
        (without("block_ids"), "no 'block_ids'"),
        (changed("block_ids", lambda t: t[:, 1:]), "block_ids has shape"),
        (changed("attention_mask", lambda t: t[:1]), "attention_mask has shape"),
        (without("pixel_values"), "together"),
        (without("image_grid_thw"), "together"),
        (lambda batch: without("pixel_values")(without("image_grid_thw")(batch)), "images make 0"),
        (changed("mm_token_type_ids", torch.zeros_like), "mm_token_type_ids must be 1"),
        (changed("block_ids", first_column(-2)), r"hold \[-2\]; expected -1"),
        (changed("target_mask", torch.ones_like), "overlaps a block"),
        (changed("target_mask", first_column(True)), "padding or a row's first token"),
    ],
)
def test_wrong_inputs_are_named(
    tiny_model: Any, tiny_batch: Batch, spoil: Callable[[Batch], Batch], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        attribute(tiny_model, spoil(tiny_batch), config=POINTS)


def test_a_model_without_a_pad_token_is_named(
    tiny_model: Any, tiny_batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attribute(tiny_model, tiny_batch, config=POINTS)
    text = tiny_model.config.get_text_config()
    monkeypatch.setattr(tiny_model.generation_config, "pad_token_id", text.pad_token_id)
    monkeypatch.setattr(text, "pad_token_id", None)
    assert same(expected, attribute(tiny_model, tiny_batch, config=POINTS))
    monkeypatch.setattr(tiny_model.generation_config, "pad_token_id", None)
    with pytest.raises(ValueError, match="no pad token"):
        attribute(tiny_model, tiny_batch, config=POINTS)


def turn(processor: Any, example: Example) -> ToolTurn:
    """A rendered prompt with the right call."""
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


@pytest.mark.filterwarnings("ignore:the pad token's embedding is zero")
def test_rendered_prompts_agree_with_the_slow_reference(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    model, processor = tiny
    turns = [turn(processor, example) for example in test_examples[::80]]
    ours = attribute(model, calls_batch(turns, processor.tokenizer, "cpu"), config=POINTS)
    for i, each in enumerate(turns):
        batch = calls_batch([each], processor.tokenizer, "cpu")
        reference = slow_reference(model, batch, POINTS.n_steps)
        for found, expected in zip((ours.signed, ours.l1, ours.delta_f), reference, strict=True):
            assert torch.allclose(found[i], expected, atol=1e-5)
    assert (ours.signed.abs().sum(0) > 0).all()
