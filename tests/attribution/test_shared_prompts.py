"""Calls that share a prompt: the same attributions as from separate rows, with less work."""

import math
import resource
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.attribution.shared_prompts import forward_engine as shared_blocks
from iapo.attribution.shared_prompts import forward_mode as block_tangents
from iapo.attribution.shared_prompts.forward_engine import SharedBlocks
from iapo.attribution.shared_prompts.reverse_engine import SharedTokens
from iapo.config.schema import AttributionConfig
from iapo.rollout.turns import ToolTurn

pytestmark = pytest.mark.filterwarnings("ignore:the pad token's embedding is zero")
PLAIN = AttributionConfig(tolerance=1e9, magnitudes=True)
BLOCKS_ALONE = replace(PLAIN, magnitudes=False)


def alone(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch without what says that its rows share prompts."""
    return {name: tensor for name, tensor in batch.items() if name not in ("prompt_rows", "turn_lengths")}


@pytest.mark.parametrize("budget", [64, 500, 10_000])
@pytest.mark.parametrize("tolerance", [1e9, 1e-9], ids=["plain", "all refined"])
def test_shared_prompts_change_nothing(
    trained_looking: Any, tiny: tuple[Any, Any], turns: list[ToolTurn], budget: int, tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settings = AttributionConfig(n_steps=3, tolerance=tolerance, tokens_per_forward=budget, magnitudes=True)
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu")
    hits = []
    original = SharedTokens.along
    monkeypatch.setattr(SharedTokens, "along", lambda *args: hits.append(1) or original(*args))
    shared = attribute(trained_looking, batch, config=settings)
    assert hits
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
    settings = AttributionConfig(n_steps=3, tolerance=tolerance, tokens_per_forward=budget, magnitudes=True)
    batch = calls_batch(turns, tiny[1].tokenizer, "cpu", target)
    # Few scores at a time, so that queries are taken in several turns too.
    monkeypatch.setitem(block_tangents._SCORES_TOGETHER, "cpu", 40 * budget)
    # And few logits: seven targets' for the smallest budget.
    vocabulary = trained_looking.config.text_config.vocab_size
    monkeypatch.setattr(shared_blocks, "_LOGITS_TOGETHER", vocabulary * budget // 9)
    shared = attribute(trained_looking, batch, config=replace(settings, magnitudes=False))
    apart = attribute(trained_looking, alone(batch), config=settings)
    assert shared.l1.isnan().all() and apart.signed.abs().max() > 1
    for name in ("signed", "delta_f", "log_p", "convergence_delta"):
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
        reached, waiting = set(), [outputs.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in reached:
                reached.add(node)
                waiting.extend(after for after, _ in node.next_functions)
        layers.append(sum("Softmax" in node.name() and "Log" not in node.name() for node in reached))
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
    hits = []
    monkeypatch.setattr(SharedBlocks, "_along", lambda *_: hits.append(1))
    finer = {**batch, "block_ids": torch.where(batch["block_ids"] == 1, 4, batch["block_ids"])}
    assert not attribute(trained_looking, finer, config=BLOCKS_ALONE).l1.isnan().any()
    monkeypatch.setattr(trained_looking.config.text_config, "layer_types", ["sliding_attention"] * 2)
    assert not block_tangents.has_tangents(trained_looking)
    assert not hits


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
    patch_counts: list[int] = []
    hook = trained_looking.model.visual.register_forward_pre_hook(lambda _m, args: patch_counts.append(len(args[0])))
    ours = attribute(trained_looking, batch, config=PLAIN)
    again = attribute(trained_looking, repeated, config=PLAIN)
    hook.remove()
    assert patch_counts[0] == sum(sizes) and patch_counts[-1] == sum(sizes[i] for i in rows.tolist())
    assert torch.allclose(ours.signed, again.signed, atol=1e-6)


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
    assert torch.equal(none.signed, nothing) and torch.equal(none.convergence_delta, nothing[:, 0])


@pytest.mark.parametrize("magnitudes", [True, False])
def test_a_prompt_of_eight_thousand_tokens_fits(
    tiny: tuple[Any, Any], trained_looking: Any, turns: list[ToolTurn], magnitudes: bool
) -> None:
    from benchmarks.perf.attributions import lengthened

    (long,) = lengthened(turns[:1], 8_000)
    assert len(long.prompt.input_ids) == 8_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batch = calls_batch([long], tiny[1].tokenizer, "cpu")
    found = attribute(trained_looking, batch, config=replace(PLAIN, n_steps=2, magnitudes=magnitudes))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert torch.isfinite(found.signed).all() and math.isfinite(found.convergence_delta.item())
    assert grown < 1e6  # kB; stated in config/README.md
