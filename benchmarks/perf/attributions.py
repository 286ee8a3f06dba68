"""Time of attributing a training step's calls: compared with captum at equal error, and scaling with batch and prompt.

Shapes: L tokens, K blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from benchmarks.perf.timing import alternating
from iapo.alignment.divergence import total_variation
from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.attribution.path import embedding_path, target_log_probability
from iapo.config.schema import AttributionConfig
from iapo.models.interfaces import QwenVL
from iapo.rollout.turns import PromptInputs, ToolTurn, distinct_turns
from iapo.types import BLOCKS

Row = dict[str, object]
"""One row of a results table."""
_CAPTUM_STEPS = (4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 32, 48)
"""Numbers of integration steps to try with captum, in increasing order."""


def against_captum(
    model: QwenVL,
    tokenizer: PreTrainedTokenizerBase,
    steps: Sequence[Sequence[ToolTurn]],
    config: AttributionConfig,
    repeats: int,
    *,
    reference_points: int = 256,
    most_captum_points: int = _CAPTUM_STEPS[-1],
    points_together: int | None = None,
) -> Row:
    """Compare the time of this project's attribution with captum's, at the fewest captum steps with no larger error.

    captum attributes one rollout at a time with its midpoint rule and the same baseline input; what both need
    (embeddings, positions) is computed once per rollout for captum.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        steps: rollouts of each training step; this project attributes those of one step together.
        config: attribution settings of this project.
        repeats: repetitions of each timing.
        reference_points: midpoints of the converged shares.
        most_captum_points: steps that captum stops at, whether its error is larger or not.
        points_together: steps of captum in one pass; None passes all together.

    Returns:
        Workload, errors (total variation from the converged shares), timings and their ratio.
    """
    rollouts = [turn for turns in steps for turn in turns]

    def ours(settings: AttributionConfig) -> Tensor:
        return torch.cat([_as_trained(model, tokenizer, turns, settings) for turns in steps])

    def theirs(points: int) -> Tensor:
        return torch.stack([captum_sums(model, tokenizer, turn, config, points, points_together) for turn in rollouts])

    reference = ours(replace(config, n_steps=reference_points, quadrature="midpoint", tolerance=1e9))
    error = total_variation(ours(config), reference).mean().item()
    for points in (each for each in _CAPTUM_STEPS if each <= most_captum_points):
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


def _as_trained(
    model: QwenVL, tokenizer: PreTrainedTokenizerBase, turns: Sequence[ToolTurn], config: AttributionConfig
) -> Tensor:
    """Block sums of a step's turns [turns, K], computed as in training: equal turns are attributed once."""
    distinct, place = distinct_turns(turns)
    return attribute(model, calls_batch(distinct, tokenizer, model.device), config=config).signed[place]


def captum_sums(
    model: QwenVL,
    tokenizer: PreTrainedTokenizerBase,
    turn: ToolTurn,
    config: AttributionConfig,
    steps: int,
    together: int | None = None,
) -> Tensor:
    """Return the block sums of one rollout by captum's integrated gradients: [K] float64.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        turn: the rollout's first turn.
        config: attribution settings, for the baseline input.
        steps: integration steps.
        together: steps in one pass; None passes all together.
    """
    path = embedding_path(model, calls_batch([turn], tokenizer, model.device), config.baseline)

    def log_probability(embeddings: Tensor) -> Tensor:
        return target_log_probability(model, path.rows(torch.zeros(len(embeddings)).long()), embeddings)

    inputs = path.inputs_BLD.detach()
    parts = IntegratedGradients(log_probability).attribute(
        inputs,
        baselines=inputs - path.difference_BLD.detach(),
        n_steps=steps,
        method="riemann_middle",
        internal_batch_size=together,
    )
    tokens = parts.double().sum(-1)[0]
    return torch.stack([tokens[path.blocks_BL[0] == k].sum() for k in range(len(BLOCKS))])


def scaling(
    model: QwenVL,
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[ToolTurn],
    config: AttributionConfig,
    repeats: int,
) -> list[Row]:
    """Time attribution while varying one of: prompts, calls per prompt, integration steps, prompt length.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        turns: rollouts to choose from.
        config: attribution settings.
        repeats: repetitions of each timing.

    Returns:
        Rows with ``varied, value, median, low, high, repeats, exponent``, times in seconds; the exponent is the slope
        of log time over log value within one varied quantity (1 is linear).
    """
    groups: dict[int, list[ToolTurn]] = {}
    for turn in distinct_turns(turns)[0]:
        groups.setdefault(id(turn.prompt), []).append(turn)
    full = sorted(groups.values(), key=len, reverse=True)
    fixed = replace(config, tolerance=1e9)
    cases: dict[str, dict[int, tuple[list[ToolTurn], AttributionConfig]]] = {
        "prompts": {n: ([group[0] for group in full[:n]], fixed) for n in (2, 4, 8) if n <= len(full)},
        "calls": {n: ([turn for group in full[:2] for turn in group[:n]], fixed) for n in (1, 2, 4)},
        "points": {n: ([group[0] for group in full], replace(fixed, n_steps=n)) for n in (4, 8, 16, 32)},
        "prompt tokens": {n: (lengthened(full[0][:1], n), fixed) for n in (500, 1000, 2000, 4000)},
    }
    rows: list[Row] = []
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
    """Return the turns with longer prompts, whose tool definitions are repeated up to ``tokens`` tokens in all."""
    prompts = {id(turn.prompt): turn.prompt for turn in turns}
    longer = {name: _lengthened(prompt, tokens) for name, prompt in prompts.items()}
    return [replace(turn, prompt=longer[id(turn.prompt)]) for turn in turns]


def _lengthened(prompt: PromptInputs, tokens: int) -> PromptInputs:
    tools = BLOCKS.index("T")
    tool_tokens = [i for i, block in enumerate(prompt.block_ids) if block == tools]
    end = tool_tokens[-1] + 1
    extra = max(0, tokens - len(prompt.input_ids))
    images = prompt.fields["mm_token_type_ids"][0]
    return PromptInputs(
        [
            *prompt.input_ids[:end],
            *[prompt.input_ids[tool_tokens[i % len(tool_tokens)]] for i in range(extra)],
            *prompt.input_ids[end:],
        ],
        {**prompt.fields, "mm_token_type_ids": [[*images[:end], *[0] * extra, *images[end:]]]},
        [*prompt.block_ids[:end], *[tools] * extra, *prompt.block_ids[end:]],
    )
