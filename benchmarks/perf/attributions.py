"""Attribution of one step's calls: against captum at equal error, and against what a batch consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from benchmarks.perf.timing import alternating
from iapo.alignment import BLOCKS, total_variation
from iapo.attribution import attribute
from iapo.config import AttributionConfig
from iapo.embedding_path import embedding_path, target_log_probability
from iapo.turns import PromptInputs, ToolTurn, calls_batch, distinct_turns

Row = dict[str, Any]
_CAPTUM_STEPS = (4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48)


def against_captum(
    model: Any, tokenizer: Any, steps: Sequence[Sequence[ToolTurn]], config: AttributionConfig, repeats: int
) -> Row:
    """Seconds for some steps' rollouts here and by captum, with the fewest captum steps that err no more.

    captum takes one rollout at a time, its midpoint rule and our baseline; what it needs no more than we do
    (embeddings, positions) is computed once a rollout for it.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        steps: the rollouts of each step, which we attribute together.
        config: our settings.
        repeats: of each timing.
    """
    rollouts = [turn for turns in steps for turn in turns]

    def ours(settings: AttributionConfig) -> Tensor:
        return torch.cat([_as_trained(model, tokenizer, turns, settings) for turns in steps])

    def theirs(points: int) -> Tensor:
        return torch.stack([captum_sums(model, tokenizer, turn, config, points) for turn in rollouts])

    reference = ours(replace(config, points=256, quadrature="midpoint", tolerance=1e9))
    error = total_variation(ours(config), reference).mean().item()
    for points in _CAPTUM_STEPS:
        captum_error = total_variation(theirs(points), reference).mean().item()
        if captum_error <= error:
            break
    seconds = alternating({"ours": lambda: ours(config), "captum": lambda: theirs(points)}, repeats)
    return {
        "rollouts": len(rollouts),
        "distinct_calls": sum(len(distinct_turns(turns)[0]) for turns in steps),
        "prompts": len({id(turn.prompt) for turn in rollouts}),
        "prompt_tokens": float(np.mean([len(turn.prompt.input_ids) for turn in rollouts])),
        "captum_steps": points,
        "tv_ours": error,
        "tv_captum": captum_error,
        "ours": seconds["ours"],
        "captum": seconds["captum"],
        "captum_over_ours": seconds["captum"]["median"] / seconds["ours"]["median"],
    }


def _as_trained(model: Any, tokenizer: Any, turns: Sequence[ToolTurn], config: AttributionConfig) -> Tensor:
    """Block sums of a step's turns, [turns, K], as training has them: equal turns attributed once."""
    distinct, place = distinct_turns(turns)
    return attribute(model, calls_batch(distinct, tokenizer, model.device), config=config).signed[place]


def captum_sums(model: Any, tokenizer: Any, turn: ToolTurn, config: AttributionConfig, steps: int) -> Tensor:
    """Block sums of one rollout by captum's integrated gradients: [K] float64."""
    path = embedding_path(model, calls_batch([turn], tokenizer, model.device), config.baseline)

    def log_probability(embeddings: Tensor) -> Tensor:
        return target_log_probability(model, path.rows(torch.zeros(len(embeddings)).long()), embeddings)

    inputs = path.inputs_BLD.detach()
    parts = IntegratedGradients(log_probability).attribute(
        inputs, baselines=inputs - path.difference_BLD.detach(), n_steps=steps, method="riemann_middle"
    )
    tokens = parts.double().sum(-1)[0]
    return torch.stack([tokens[path.blocks_BL[0] == k].sum() for k in range(len(BLOCKS))])


def scaling(
    model: Any, tokenizer: Any, turns: Sequence[ToolTurn], config: AttributionConfig, repeats: int
) -> list[Row]:
    """Seconds against prompts, calls a prompt, points, and prompt length; other things equal.

    Returns:
        Rows with ``varied, value, median, low, high, repeats, exponent``; the exponent is the slope of log
        seconds over log value within one varied quantity: 1 is linear.
    """
    groups: dict[int, list[ToolTurn]] = {}
    for turn in distinct_turns(turns)[0]:
        groups.setdefault(id(turn.prompt), []).append(turn)
    full = sorted(groups.values(), key=len, reverse=True)
    fixed = replace(config, tolerance=1e9)
    cases: dict[str, dict[int, tuple[list[ToolTurn], AttributionConfig]]] = {
        "prompts": {n: ([group[0] for group in full[:n]], fixed) for n in (2, 4, 8) if n <= len(full)},
        "calls": {n: ([turn for group in full[:2] for turn in group[:n]], fixed) for n in (1, 2, 4)},
        "points": {n: ([group[0] for group in full], replace(fixed, points=n)) for n in (4, 8, 16, 32)},
        "prompt tokens": {n: (lengthened(full[0][:1], n), fixed) for n in (500, 1000, 2000, 4000)},
    }
    rows = []
    for varied, by_value in cases.items():
        functions = {
            str(value): lambda some=some, settings=settings: _as_trained(model, tokenizer, some, settings)
            for value, (some, settings) in by_value.items()
        }
        times = alternating(functions, repeats)
        medians = [times[str(value)]["median"] for value in by_value]
        exponent = float(np.polyfit(np.log(list(by_value)), np.log(medians), 1)[0])
        rows += [{"varied": varied, "value": value, **times[str(value)], "exponent": exponent} for value in by_value]
    return rows


def lengthened(turns: Sequence[ToolTurn], tokens: int) -> list[ToolTurn]:
    """The same turns after prompts whose tool definitions are repeated up to ``tokens``."""
    prompts = {id(turn.prompt): turn.prompt for turn in turns}
    longer = {name: _lengthened(prompt, tokens) for name, prompt in prompts.items()}
    return [replace(turn, prompt=longer[id(turn.prompt)]) for turn in turns]


def _lengthened(prompt: PromptInputs, tokens: int) -> PromptInputs:
    tools = BLOCKS.index("T")
    own = [i for i, block in enumerate(prompt.block_ids) if block == tools]
    end = own[-1] + 1
    more = max(0, tokens - len(prompt.input_ids))
    images = prompt.fields["mm_token_type_ids"][0]
    return PromptInputs(
        [
            *prompt.input_ids[:end],
            *[prompt.input_ids[own[i % len(own)]] for i in range(more)],
            *prompt.input_ids[end:],
        ],
        {**prompt.fields, "mm_token_type_ids": [[*images[:end], *[0] * more, *images[end:]]]},
        [*prompt.block_ids[:end], *[tools] * more, *prompt.block_ids[end:]],
    )
