"""How a step's rewards become advantages: where each term of the reward enters, and what it contributes.

TRL sums the terms and normalises the sum within its group. Where the outcomes of a group are all equal, whatever else
differs is so scaled to unit variance, however small its weight: the weight cancels. A term may therefore be added to
the advantage instead, after the normalisation, where its weight keeps its meaning.

N: rollouts of a step, of all processes, those of a group consecutive. G: rollouts of a group. T: terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

from iapo.config.method import RewardForm
from iapo.rewards.outcome import outcome_reward

OUTCOME = outcome_reward.__name__
"""Name of the term by which a group counts as flat, and a rollout as right."""

TIE_BREAK = 1.0
"""Largest advantage that the form ``flat`` adds, about one standard deviation of a normalised outcome. Assumed."""

_GATED = ("varied", "flat", "right")
"""Forms that look at the outcome."""

_FLAT = 1e-12
"""Variance up to which a group counts as constant; rounding errors stay below it."""

_TRL_EPSILON = 1e-4
"""What TRL adds to a standard deviation before it divides by it."""


@dataclass(frozen=True)
class AdvantageRule:
    """Terms of a reward, and how they become an advantage."""

    names: tuple[str, ...]
    """Names of the terms [T]."""
    weights: tuple[float, ...]
    """What each term is multiplied by [T]."""
    forms: tuple[RewardForm, ...]
    """Where each term enters [T]."""
    group_size: int
    """G."""
    scale: Literal["group", "batch", "none"] = "group"
    """What TRL divides the advantage by; not read with ``normalize_then_sum``."""
    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Whether TRL normalises the sum of the terms, or each by itself and then the sum over the step."""

    def __post_init__(self) -> None:
        gated = [name for name, form in zip(self.names, self.forms, strict=True) if form in _GATED]
        if gated and OUTCOME not in self.names:
            raise ValueError(
                f"{gated[0]}: found a form that looks at the outcome and the terms {list(self.names)}; expected "
                f"{OUTCOME} among them. Add it, with weight 0 if need be, or use the form reward or advantage"
            )

    @property
    def adds(self) -> bool:
        """Whether a term is added to the advantage."""
        return any(form != "reward" for form in self.forms)

    @property
    def trl_weights(self) -> tuple[float, ...]:
        """Weights in the reward that TRL normalises [T]: 0 for a term that is added afterwards."""
        return tuple(w if form == "reward" else 0.0 for w, form in zip(self.weights, self.forms, strict=True))

    def total_rewards(self, rewards: Tensor) -> Tensor:
        """Return the weighted sum of all terms, whatever their form, [N], for the log.

        Args:
            rewards: [N, T] unweighted; NaN where a term does not apply.
        """
        return (rewards * torch.tensor(self.weights).to(rewards)).nansum(1)

    def added(self, rewards: Tensor) -> Tensor:
        """Return what is added to TRL's advantages [N].

        Args:
            rewards: [N, T] unweighted; NaN where a term does not apply.
        """
        return self._added(self._grouped(rewards)).sum(-1).flatten().to(rewards)

    def contributions(self, rewards: Tensor) -> Tensor:
        """Return each term's part of the advantage, after normalisation and form, [N, T]; the parts sum to it.

        Args:
            rewards: [N, T] unweighted; NaN where a term does not apply.
        """
        grouped = self._grouped(rewards)
        return (self._normalised(grouped) + self._added(grouped)).flatten(0, 1)

    def metrics(self, rewards: Tensor) -> dict[str, float]:
        """Measure what each term does to a step's advantages.

        Args:
            rewards: [N, T] unweighted; NaN where a term does not apply.

        Returns:
            Metrics by name. ``advantage/<term>_std``: root of the mean within-group variance of the weighted term, in
            units of the reward, whatever the form. ``advantage/<term>_share``: covariance of the term's part of the
            advantage with the whole over the variance of the whole, over the step; the shares sum to 1, or to 0 where
            nothing differs. ``advantage/<term>_alone``: share of groups in which this term alone adds to the advantage.
            ``advantage/flat_groups``: share of groups whose advantages are all 0. ``advantage/flat_outcomes``: share of
            groups whose outcomes are all equal, if the outcome is a term.
        """
        grouped = self._grouped(rewards)
        added = self._added(grouped)
        parts = self._normalised(grouped) + added
        whole = parts.sum(-1)
        variance = whole.square().sum()
        weighted = torch.stack([self._weighted(grouped, i) for i in range(len(self.names))], -1)
        in_reward = torch.tensor([form == "reward" for form in self.forms], device=rewards.device)
        acts = torch.where(in_reward, weighted, added).square().mean(1) > _FLAT
        metrics = {"advantage/flat_groups": _share(whole.square().mean(1) <= _FLAT)}
        if OUTCOME in self.names:
            metrics["advantage/flat_outcomes"] = _share(~_varies(grouped[..., self.names.index(OUTCOME)]))
        for i, name in enumerate(self.names):
            metrics[f"advantage/{name}_std"] = weighted[..., i].square().mean().sqrt().item()
            metrics[f"advantage/{name}_share"] = (
                ((parts[..., i] * whole).sum() / variance).item() if variance > _FLAT else 0.0
            )
            metrics[f"advantage/{name}_alone"] = _share(acts[:, i] & (acts.sum(1) == 1))
        return metrics

    def _grouped(self, rewards: Tensor) -> Tensor:
        return rewards.double().view(-1, self.group_size, len(self.names))

    def _weighted(self, grouped: Tensor, term: int) -> Tensor:
        """Return a weighted term minus its mean in each group [groups, G]."""
        values = self.weights[term] * grouped[..., term]
        # Within a sum TRL takes what does not apply for 0.
        return _centred(values.nan_to_num() if self.forms[term] == "reward" else values)

    def _added(self, grouped: Tensor) -> Tensor:
        parts = torch.zeros_like(grouped)
        for i, form in enumerate(self.forms):
            if form != "reward":
                outcomes = grouped[..., self.names.index(OUTCOME)] if form in _GATED else grouped[..., i]
                parts[..., i] = added_advantage(grouped[..., i], outcomes, self.weights[i], form)
        return parts

    def _normalised(self, grouped: Tensor) -> Tensor:
        """Return each term's part of the advantage that TRL computes [groups, G, T]."""
        weights = torch.tensor(self.trl_weights).to(grouped)
        unscorable = grouped.isnan().all(-1, keepdim=True)
        summed = self.aggregation == "sum_then_normalize"
        per_term = grouped if summed else _z_scores(grouped)
        parts = (weights * per_term).nan_to_num().masked_fill(unscorable, torch.nan)
        total = parts.sum(-1, keepdim=True)
        if summed:
            parts = parts - parts.nanmean(1, keepdim=True)
            divisor = nanstd(total, dim=1, keepdim=True) if self.scale == "group" else nanstd(total)
        else:
            parts = parts - parts.flatten(0, 1).nanmean(0)
            divisor = nanstd(total)
        if not summed or self.scale != "none":
            parts = parts / (divisor + _TRL_EPSILON)
        return parts.nan_to_num()


def added_advantage(rewards: Tensor, outcomes: Tensor, weight: float, form: RewardForm) -> Tensor:
    """Return what a term adds to the advantages after these are normalised; it sums to 0 in every group.

    Args:
        rewards: [groups, G] the term, unweighted; NaN where it does not apply, which gets 0 and counts in no mean.
        outcomes: [groups, G] outcomes, right where 1.
        weight: what the term is multiplied by.
        form: ``advantage``: minus its mean in the group. ``varied``, ``flat``: the same in the groups whose outcomes
            differ, or are all equal, and 0 in the others; with ``flat`` a group that would exceed :data:`TIE_BREAK` is
            scaled down to it as a whole. ``right``: minus its mean among the group's right rollouts, and 0 for the
            others. ``reward``: 0, since the term is in the reward already.

    Returns:
        [groups, G] summands, in units of the advantage.
    """
    if form == "reward":
        return torch.zeros_like(rewards)
    values = weight * rewards
    if form == "right":
        return _centred(values.masked_fill(~(outcomes >= 1), torch.nan))
    centred, varies = _centred(values), _varies(outcomes).unsqueeze(1)
    if form == "varied":
        return centred * varies
    if form == "flat":
        largest = centred.abs().amax(1, keepdim=True)
        return centred * ~varies * (TIE_BREAK / largest.clamp(min=TIE_BREAK))
    return centred


def _centred(values: Tensor) -> Tensor:
    """Return values minus their group's mean; 0 for NaN, which counts in no mean."""
    return (values - values.nanmean(1, keepdim=True)).nan_to_num()


def _z_scores(grouped: Tensor) -> Tensor:
    """Return TRL's normalisation of each term within its group."""
    return (grouped - grouped.nanmean(1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + _TRL_EPSILON)


def _varies(values: Tensor) -> Tensor:
    """Return for each group whether its values differ [groups]."""
    return _centred(values).square().mean(1) > _FLAT


def _share(groups: Tensor) -> float:
    return groups.double().mean().item()
