"""Options of the attribution (partition, method, quadrature, baseline, precision), and a planted block to find."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.audit.planted import planted_model, planted_share, random_prompts
from iapo.alignment.divergence import block_magnitudes, distribution
from iapo.attribution import api as attribution
from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.attribution.quadrature import nodes
from iapo.config.mini_world import ModelConfig
from iapo.config.schema import AttributionConfig
from iapo.models.tiny import build_model
from iapo.rollout.turns import PromptInputs, ToolTurn, turn_ids
from iapo.tools.parsing import render_call
from iapo.types import Example, ToolCall

pytestmark = pytest.mark.filterwarnings("ignore:the pad token's embedding is zero")
PLAIN = AttributionConfig(tolerance=1e9, magnitudes=True)

PromptOf = Callable[..., PromptInputs]


def tv(one: Tensor, other: Tensor) -> Tensor:
    return 0.5 * (distribution(one, 0.0) - distribution(other, 0.0)).abs().sum(-1)


def test_finer_blocks_add_up_to_the_four(
    trained_looking: Any, tiny: tuple[Any, Any], test_examples: list[Example], prompt_of: PromptOf
) -> None:
    processor = tiny[1]
    # Tables have tools for rows and for columns.
    example = next(each for each in test_examples if each.test_set == "vwtq")
    family, boxes = next(iter(example.figure.boxes.items()))
    text = render_call(ToolCall(f"focus_on_{family}_with_mask", (next(iter(boxes)),)))
    ids = turn_ids(processor.tokenizer, text)
    coarse = ToolTurn(prompt_of(example), ids, text)
    four = attribute(trained_looking, calls_batch([coarse], processor.tokenizer, "cpu"), config=PLAIN)
    for partition in ("items", "labels"):
        fine = ToolTurn(prompt_of(example, partition), ids, text)
        assert fine.prompt.blocks > 4
        found = attribute(trained_looking, calls_batch([fine], processor.tokenizer, "cpu"), config=PLAIN)
        pairs = set(zip(coarse.prompt.block_ids, fine.prompt.block_ids, strict=True))
        parents = {small: {big for big, other in pairs if other == small} for small in range(fine.prompt.blocks)}
        # Labels outside any block of the four are not invented: a token without a block has none in any partition.
        assert all((big == -1) == (small == -1) for big, small in pairs)
        if partition == "items":
            assert all(len(found) <= 1 for found in parents.values())
            for big in range(4):
                children = [small for small, of in parents.items() if of == {big}]
                assert found.signed[0, children].sum().item() == pytest.approx(four.signed[0, big].item(), abs=1e-6)
        assert found.signed.sum().item() == pytest.approx(four.signed.sum().item(), abs=1e-6)


def test_shapley_values_are_the_mean_gain_over_all_orders(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = calls_batch(turns[:1], tiny[1].tokenizer, "cpu")
    path = attribution.embedding_path(trained_looking, batch, "pad_image_mean")
    rows = attribution.SeparateRows(trained_looking, path, PLAIN)

    def value(present: tuple[int, ...]) -> float:
        absent = ~torch.isin(path.blocks_BL, torch.tensor(present)) & (path.blocks_BL >= 0)
        return rows.log_probability_at(path.inputs_BLD - path.difference_BLD * absent[..., None]).item()

    expected = torch.zeros(4, dtype=torch.float64)
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        for i, block in enumerate(order):
            expected[block] += (value(order[: i + 1]) - value(order[:i])) / len(orders)
    found = attribute(trained_looking, batch, config=AttributionConfig(method="shapley"))
    assert torch.allclose(found.signed[0], expected, atol=1e-5)
    assert found.signed.sum().item() == pytest.approx(found.delta_f.item(), abs=1e-5)


def test_attention_shares_are_a_distribution_over_what_is_attended(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]
) -> None:
    before = trained_looking.config._attn_implementation
    found = attribute(
        trained_looking, calls_batch(turns, tiny[1].tokenizer, "cpu"), config=AttributionConfig(method="attention")
    )
    assert (found.signed >= 0).all() and trained_looking.config._attn_implementation == before
    targets = torch.tensor([len(turn.ids) - 1 for turn in turns], dtype=torch.float64)
    # Every position pays 1 in all, some of it to template and call.
    assert (found.signed.sum(1) < targets + 1e-6).all() and (found.signed.sum(1) > 0).all()


@pytest.mark.parametrize("method", ["integrated_gradients", "shapley", "attention"])
def test_a_process_with_fewer_calls_runs_as_many_passes_as_the_others(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], method: Any
) -> None:
    """Each pass gathers sharded weights, so a process that ran fewer would leave the others waiting."""
    batch = calls_batch(turns[:1], tiny[1].tokenizer, "cpu")
    config = AttributionConfig(method=method, magnitudes=True)
    passes = []
    counted = trained_looking.model.language_model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        alone = attribute(trained_looking, batch, config=config)
        own = len(passes)
        beside = attribute(trained_looking, batch, config=config, all_reduce_max=lambda count: count + 2)
    finally:
        counted.remove()
    assert len(passes) - own > own and torch.allclose(alone.signed, beside.signed, atol=1e-6)


def test_gauss_legendre_is_exact_for_polynomials_and_near_for_models(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]
) -> None:
    places, weights = nodes(4, "gauss_legendre")
    for power in range(8):
        assert (weights * places**power).sum().item() == pytest.approx(1 / (power + 1), abs=1e-12)
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    many = attribute(trained_looking, batch, config=replace(PLAIN, n_steps=256))
    few = attribute(trained_looking, batch, config=replace(PLAIN, n_steps=24, quadrature="gauss_legendre"))
    assert tv(many.signed, few.signed).max() < 0.02


@pytest.mark.parametrize("baseline", ["pad", "mean_embedding", "zero", "flat_image"])
def test_each_baseline_is_its_own_start(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], baseline: Any
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    path = attribution.embedding_path(trained_looking, batch, baseline)
    start = path.inputs_BLD - path.difference_BLD
    moved = path.blocks_BL >= 0
    image = batch["input_ids"] == trained_looking.config.image_token_id
    table = trained_looking.get_input_embeddings().weight.detach()
    expected = {
        "pad": table[tiny[1].tokenizer.pad_token_id],
        "mean_embedding": table.mean(0),
        "zero": torch.zeros(table.shape[1]),
        "flat_image": table[tiny[1].tokenizer.pad_token_id],
    }[baseline]
    assert torch.allclose(start[moved & ~image], expected, atol=1e-5)
    # Template, call and padding stay what they are.
    assert torch.equal(start[~moved], path.inputs_BLD[~moved])
    usual = attribute(trained_looking, batch, config=PLAIN).signed
    assert tv(usual, attribute(trained_looking, batch, config=replace(PLAIN, baseline=baseline)).signed).max() > 1e-3


@pytest.fixture(scope="module")
def converged(turns: list[ToolTurn], shake: Callable[[Any, int], Any]) -> list[tuple[Any, Any, Tensor]]:
    """Three models, whose random weights decide how much an option gains: each, a batch, and what it converges to."""
    models = []
    for seed in range(3):
        model, processor = build_model(ModelConfig(hidden_size=32), seed=seed)
        batch = calls_batch(turns, processor.tokenizer, "cpu")
        shake(model, seed)
        models.append((model, batch, attribute(model, batch, config=replace(PLAIN, n_steps=256)).signed))
    return models


def test_blocks_are_complete_and_nearer_to_the_converged_ones(converged: list[tuple[Any, Any, Tensor]]) -> None:
    errors = []
    for model, batch, reference in converged:
        found = []
        for points in (4, 5, 6, 7, 8):
            few = replace(PLAIN, n_steps=points, control_variate=False)
            plain = attribute(model, batch, config=few)
            corrected = attribute(model, batch, config=replace(few, control_variate=True))
            assert torch.allclose(corrected.signed.sum(1), corrected.delta_f, atol=1e-6)
            assert torch.equal(corrected.convergence_delta, plain.convergence_delta)
            found.append(torch.stack([tv(each.signed, reference).mean() for each in (corrected, plain)]))
        nearer, far = torch.stack(found).mean(0).tolist()
        assert nearer < far
        errors.append((nearer, far))
    assert sum(nearer for nearer, _ in errors) < 0.9 * sum(far for _, far in errors)


@pytest.mark.parametrize("magnitudes", [True, False])
def test_refined_rows_are_nearer_to_the_converged_ones(
    converged: list[tuple[Any, Any, Tensor]], magnitudes: bool
) -> None:
    errors = []
    for model, batch, reference in converged:
        few = replace(PLAIN, n_steps=6, control_variate=False, magnitudes=magnitudes)
        plain, refined = (attribute(model, batch, config=replace(few, tolerance=t)) for t in (1e9, 1e-9))
        errors.append([tv(each.signed, reference).mean().item() for each in (refined, plain)])
    assert all(nearer < far for nearer, far in errors)
    assert sum(nearer for nearer, _ in errors) < 0.7 * sum(far for _, far in errors)


def test_the_loss_reaches_the_parameters(trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    settings = replace(PLAIN, n_steps=4, control_variate=False)
    plain = attribute(trained_looking, batch, config=settings)
    kept = attribute(trained_looking, batch, config=settings, differentiable=True)
    assert torch.allclose(plain.signed, kept.signed.detach(), atol=2e-5) and not plain.signed.requires_grad
    weight = trained_looking.model.language_model.layers[0].self_attn.q_proj.weight
    loss = distribution(kept.signed, 0.0)[:, 0].sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    # Against a finite difference in the direction of the gradient.
    step = 1e-3 * gradient / gradient.norm()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step)
        values.append(distribution(attribute(trained_looking, batch, config=settings).signed, 0.0)[:, 0].sum())
        with torch.no_grad():
            weight.sub_(sign * step)
    assert ((values[0] - values[1]) / 2e-3).item() == pytest.approx(gradient.norm().item(), rel=0.05)


@pytest.mark.parametrize(("magnitudes", "most"), [(True, 0.01), (False, 0.005)])
def test_autocast_moves_the_shares_little(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], magnitudes: bool, most: float
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    full = attribute(trained_looking, batch, config=PLAIN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = attribute(trained_looking, batch, config=replace(PLAIN, magnitudes=magnitudes))
    # Random weights cancel more than trained ones, for which the audit reports under .002 per block.
    assert 0 < tv(full.signed, half.signed).mean() <= most


def test_the_planted_block_is_found() -> None:
    assert planted_share(200) >= 0.99


def test_a_planted_block_is_the_only_one_that_matters() -> None:
    model = planted_model(1, seed=3)
    batch = random_prompts(model, 5, seed=0)
    before = attribute(model, batch, config=PLAIN).log_p
    for block in (0, 1, 3):
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        here = batch["block_ids"] == block
        changed["input_ids"][here] = (batch["input_ids"][here] + 7) % 30 + 30 * block
        moved = (attribute(model, changed, config=PLAIN).log_p - before).abs().mean().item()
        assert (moved > 1) == (block == 1)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("signed", [6.0, -2.0]), ("l1", [8.0, 4.0]), ("length_normalised", [3.0, -2.0])],
)
def test_what_stands_for_a_block(aggregation: Any, expected: list[float]) -> None:
    signed, l1 = torch.tensor([6.0, -2.0]), torch.tensor([8.0, 4.0])
    assert block_magnitudes(signed, l1, torch.tensor([2, 1]), aggregation).tolist() == expected
