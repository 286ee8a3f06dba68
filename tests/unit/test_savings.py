"""Every saving and every option of the attribution: what must not change, and what a cheaper mode computes."""

import itertools
import math
import resource
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.audit.planted import planted_model, planted_share, random_prompts
from iapo import attribution, block_tangents, shared_blocks
from iapo.alignment import block_magnitudes, distribution
from iapo.attribution import attribute
from iapo.config import AttributionConfig
from iapo.prompts import prompt_messages
from iapo.quadrature import nodes
from iapo.rollout import encode_prompt
from iapo.shared_blocks import SharedBlocks
from iapo.shared_prefix import SharedTokens
from iapo.teacher import turn_ids
from iapo.tools import render_call
from iapo.turns import PromptInputs, ToolTurn, calls_batch, example_inputs
from iapo.types import Example, ToolCall

pytestmark = pytest.mark.filterwarnings("ignore:the pad token's embedding is zero")
PLAIN = AttributionConfig(tolerance=1e9, magnitudes=True)
BLOCKS_ALONE = replace(PLAIN, magnitudes=False)


@pytest.fixture(scope="module")
def turns(tiny: tuple[Any, Any], test_examples: list[Example]) -> list[ToolTurn]:
    """Three prompts of different kinds, with three, two and one calls."""
    processor = tiny[1]
    found = []
    for count, example in zip((3, 2, 1), test_examples[::90], strict=False):
        inputs = prompt_of(processor, example)
        family, boxes = next(iter(example.figure.boxes.items()))
        for label, mode in zip(list(boxes)[:count], ("mask", "draw", "highlight"), strict=False):
            text = render_call(ToolCall(f"focus_on_{family}_with_{mode}", (label,)))
            found.append(ToolTurn(inputs, turn_ids(processor.tokenizer, text), text))
    assert len(found) == 6
    return found


def prompt_of(processor: Any, example: Example, partition: Any = "prit") -> PromptInputs:
    encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
    return example_inputs(processor, example, encoded, partition)


def alone(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch without what says that its rows share prompts."""
    return {name: tensor for name, tensor in batch.items() if name not in ("prompt_rows", "turn_lengths")}


def tv(one: Tensor, other: Tensor) -> Tensor:
    return 0.5 * (distribution(one, 0.0) - distribution(other, 0.0)).abs().sum(-1)


@pytest.mark.parametrize("budget", [64, 500, 10_000])
@pytest.mark.parametrize("tolerance", [1e9, 1e-9], ids=["plain", "all refined"])
def test_shared_prompts_change_nothing(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], budget: int, tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = AttributionConfig(points=3, tolerance=tolerance, tokens_per_forward=budget, magnitudes=True)
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    asked = []
    original = SharedTokens.along
    monkeypatch.setattr(SharedTokens, "along", lambda *args: asked.append(1) or original(*args))
    shared = attribute(trained_looking, batch, config=settings)
    assert asked
    apart = attribute(trained_looking, alone(batch), config=settings)
    for name in ("signed", "l1", "delta_f", "log_p"):
        assert torch.allclose(getattr(shared, name), getattr(apart, name), atol=2e-5), name


@pytest.mark.parametrize("budget", [64, 500, 10_000])
@pytest.mark.parametrize("tolerance", [1e9, 1e-9], ids=["plain", "all refined"])
@pytest.mark.parametrize("target", ["call", "turn"])
def test_tangents_of_the_blocks_change_nothing(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], budget: int, tolerance: float, target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = AttributionConfig(points=3, tolerance=tolerance, tokens_per_forward=budget, magnitudes=True)
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu", target)
    # Few scores at a time, so that queries are taken in several turns too.
    monkeypatch.setitem(block_tangents._SCORES_TOGETHER, "cpu", 40 * budget)
    # And few logits: seven targets' for the smallest budget.
    vocabulary = trained_looking.config.text_config.vocab_size
    monkeypatch.setattr(shared_blocks, "_LOGITS_TOGETHER", vocabulary * budget // 9)
    shared = attribute(trained_looking, batch, config=replace(settings, magnitudes=False))
    apart = attribute(trained_looking, alone(batch), config=settings)
    assert shared.l1.isnan().all() and apart.signed.abs().max() > 1
    for name in ("signed", "delta_f", "log_p", "residual"):
        assert torch.allclose(getattr(shared, name), getattr(apart, name), atol=2e-5), name
    assert all(parameter.grad is None for parameter in trained_looking.parameters())


def test_blocks_may_stand_in_any_order_and_begin_together(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        # The same new place for each token of a prompt, in all of its rows.
        shuffled = batch["block_ids"].clone()
        for prompt in batch["prompt_rows"].unique():
            rows = (batch["prompt_rows"] == prompt).nonzero()[:, 0]
            order = torch.randint(4, (shuffled.shape[1],), generator=generator)
            for row in rows:
                moves = shuffled[row] >= 0
                shuffled[row, moves] = order[: int(moves.sum())]
        mixed = {**batch, "block_ids": shuffled}
        shared = attribute(trained_looking, mixed, config=BLOCKS_ALONE)
        assert torch.allclose(shared.signed, attribute(trained_looking, alone(mixed), config=PLAIN).signed, atol=2e-5)
    # Two blocks that begin together in different prompts, counted from the end, and one between them in number.
    moves = batch["block_ids"] >= 0
    from_end = moves.flip(1).cumsum(1).flip(1)
    first = torch.where(batch["prompt_rows"] == 1, 2, 0)[:, None]
    blocks = torch.where(from_end > 12, 3, torch.where(from_end > 8, first, 1)).where(moves, -1)
    mixed = {**batch, "block_ids": blocks}
    shared = attribute(trained_looking, mixed, config=BLOCKS_ALONE)
    assert torch.allclose(shared.signed, attribute(trained_looking, alone(mixed), config=PLAIN).signed, atol=2e-5)


def test_no_backward_pass_of_block_sums_enters_prompt_or_call(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    layers: list[Any] = []
    original = torch.autograd.grad

    def grad(outputs: Any, inputs: Any, **more: Any) -> Any:
        seen, waiting = set(), [outputs.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting.extend(after for after, _ in node.next_functions)
        layers.append(sum("Softmax" in node.name() and "Log" not in node.name() for node in seen))
        return original(outputs, inputs, **more)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    attribute(trained_looking, batch, config=BLOCKS_ALONE)
    # One gradient for all calls, behind the last attention.
    assert layers == [0]
    attribute(trained_looking, batch, config=PLAIN)
    assert len(layers) == 1 + 3


def test_finer_blocks_and_other_decoders_keep_to_gradients(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    asked = []
    monkeypatch.setattr(SharedBlocks, "_along", lambda *_: asked.append(1))
    finer = {**batch, "block_ids": torch.where(batch["block_ids"] == 1, 4, batch["block_ids"])}
    assert not attribute(trained_looking, finer, config=BLOCKS_ALONE).l1.isnan().any()
    monkeypatch.setattr(trained_looking.config.text_config, "layer_types", ["sliding_attention"] * 2)
    assert not block_tangents.has_tangents(trained_looking)
    assert not asked


def test_tangents_go_through_adapters(tiny: tuple[Any, Any], trained_looking: Any, turns: list[ToolTurn]) -> None:
    import copy

    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(copy.deepcopy(trained_looking), LoraConfig(target_modules=["q_proj", "v_proj", "up_proj"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model = adapted.get_base_model().eval()
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    shared, apart = (attribute(model, each, config=BLOCKS_ALONE) for each in (batch, alone(batch)))
    plain = attribute(trained_looking, alone(batch), config=PLAIN)
    assert torch.allclose(shared.signed, apart.signed, atol=2e-5)
    assert not torch.allclose(plain.signed, apart.signed, atol=0.1)


def test_images_pass_the_vision_tower_once_a_prompt(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    once = batch["image_grid_thw"]
    rows = batch["image_rows"]
    assert len(once) == 3 and len(rows) == 6
    sizes = once.prod(1).tolist()
    patches = batch["pixel_values"].split(sizes)
    repeated = {
        **{name: tensor for name, tensor in batch.items() if name != "image_rows"},
        "pixel_values": torch.cat([patches[i] for i in rows.tolist()]),
        "image_grid_thw": once[rows],
    }
    seen: list[int] = []
    hook = trained_looking.model.visual.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    ours = attribute(trained_looking, batch, config=PLAIN)
    again = attribute(trained_looking, repeated, config=PLAIN)
    hook.remove()
    assert seen[0] == sum(sizes) and seen[-1] == sum(sizes[i] for i in rows.tolist())
    assert torch.allclose(ours.signed, again.signed, atol=1e-6)


def test_finer_blocks_add_up_to_the_four(
    trained_looking: Any, tiny: tuple[Any, Any], test_examples: list[Example]
) -> None:
    processor = tiny[1]
    # Tables have tools for rows and for columns.
    example = next(each for each in test_examples if each.test_set == "vwtq")
    family, boxes = next(iter(example.figure.boxes.items()))
    text = render_call(ToolCall(f"focus_on_{family}_with_mask", (next(iter(boxes)),)))
    ids = turn_ids(processor.tokenizer, text)
    coarse = ToolTurn(prompt_of(processor, example), ids, text)
    four = attribute(trained_looking, calls_batch([coarse], processor.tokenizer, "cpu"), config=PLAIN)
    for partition in ("items", "labels"):
        fine = ToolTurn(prompt_of(processor, example, partition), ids, text)  # type: ignore[arg-type]
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


def test_gauss_legendre_is_exact_for_polynomials_and_near_for_models(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]
) -> None:
    places, weights = nodes(4, "gauss_legendre")
    for power in range(8):
        assert (weights * places**power).sum().item() == pytest.approx(1 / (power + 1), abs=1e-12)
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    many = attribute(trained_looking, batch, config=replace(PLAIN, points=256))
    few = attribute(trained_looking, batch, config=replace(PLAIN, points=24, quadrature="gauss_legendre"))
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


def test_blocks_are_complete_and_nearer_to_the_converged_ones(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    reference = attribute(trained_looking, batch, config=replace(PLAIN, points=256)).signed
    errors = []
    for points in (4, 5, 6, 7, 8):
        few = replace(PLAIN, points=points, control_variate=False)
        plain = attribute(trained_looking, batch, config=few)
        corrected = attribute(trained_looking, batch, config=replace(few, control_variate=True))
        assert torch.allclose(corrected.signed.sum(1), corrected.delta_f, atol=1e-6)
        assert torch.equal(corrected.residual, plain.residual)
        errors.append(torch.stack([tv(each.signed, reference).mean() for each in (corrected, plain)]))
    nearer, far = torch.stack(errors).mean(0).tolist()
    assert nearer < 0.9 * far


@pytest.mark.parametrize("magnitudes", [True, False])
def test_refined_rows_are_nearer_to_the_converged_ones(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], magnitudes: bool
) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    reference = attribute(trained_looking, batch, config=replace(PLAIN, points=256)).signed
    few = replace(PLAIN, points=6, control_variate=False, magnitudes=magnitudes)
    plain, refined = (attribute(trained_looking, batch, config=replace(few, tolerance=t)) for t in (1e9, 1e-9))
    assert tv(refined.signed, reference).mean() < 0.7 * tv(plain.signed, reference).mean()


def test_the_loss_reaches_the_parameters(trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    settings = replace(PLAIN, points=4, control_variate=False)
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
    assert planted_share(50) >= 0.99


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


@pytest.mark.parametrize("magnitudes", [True, False])
def test_a_prompt_of_eight_thousand_tokens_fits(
    tiny: tuple[Any, Any], trained_looking: Any, turns: list[ToolTurn], magnitudes: bool
) -> None:
    from benchmarks.perf.attributions import lengthened

    (long,) = lengthened(turns[:1], 8_000)
    assert len(long.prompt.input_ids) == 8_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batch = calls_batch([long], tiny[1].tokenizer, "cpu")
    found = attribute(trained_looking, batch, config=replace(PLAIN, points=2, magnitudes=magnitudes))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert torch.isfinite(found.signed).all() and math.isfinite(found.residual.item())
    assert grown < 1e6  # kB; stated in config/README.md


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("signed", [6.0, -2.0]), ("l1", [8.0, 4.0]), ("length_normalised", [3.0, -2.0])],
)
def test_what_stands_for_a_block(aggregation: Any, expected: list[float]) -> None:
    signed, l1 = torch.tensor([6.0, -2.0]), torch.tensor([8.0, 4.0])
    assert block_magnitudes(signed, l1, torch.tensor([2, 1]), aggregation).tolist() == expected


def test_turns_without_a_target_get_zeros(trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn]) -> None:
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    whole = attribute(trained_looking, batch, config=BLOCKS_ALONE)
    some = batch["target_mask"].clone()
    some[1:4] = False
    found = attribute(trained_looking, {**batch, "target_mask": some}, config=BLOCKS_ALONE)
    nothing = torch.zeros_like(whole.signed)
    assert torch.equal(found.signed[1:4], nothing[1:4]) and torch.equal(found.log_p[1:4], nothing[1:4, 0])
    assert torch.allclose(found.signed[[0, 4, 5]], whole.signed[[0, 4, 5]], atol=1e-6)
    none = attribute(trained_looking, {**batch, "target_mask": torch.zeros_like(some)}, config=BLOCKS_ALONE)
    assert torch.equal(none.signed, nothing) and torch.equal(none.residual, nothing[:, 0])
