"""From two attributions to one number: block distributions and their divergence. B batch, K blocks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

BLOCKS = ("P", "R", "I", "T")
"""Plain text, request, image, tool definitions: the order of every K axis."""

_LEAST_TOTAL = 1e-300
"""Below it a row counts as zero: shares of subnormal numbers do not sum to 1."""

Aggregation = Literal["signed", "l1", "length_normalised"]
Divergence = Literal["js", "kl_student_teacher", "kl_teacher_student"]


def distribution(signed: Tensor, epsilon: float) -> Tensor:
    """Shares of the blocks' magnitudes, smoothed.

    Args:
        signed: [..., K] block sums, nats; only magnitudes count (keeping the positive part alone turns the
            sign of the correlation with correctness).
        epsilon: mass added to every block before renormalising.

    Returns:
        [..., K] float64 probabilities, in any leading shape; uniform where every block is zero.
    """
    magnitude = signed.double().abs()
    total = magnitude.sum(-1, keepdim=True)
    blocks = signed.shape[-1]
    shares = torch.where(total <= _LEAST_TOTAL, 1 / blocks, magnitude / total)
    return (shares + epsilon) / (1 + blocks * epsilon)


def total_variation(signed: Tensor, other: Tensor) -> Tensor:
    """Half the L1 distance between the block distributions of two attributions, without smoothing: [...] in [0, 1].

    Args:
        signed: [..., K] block sums, nats.
        other: [..., K] those it is held against.
    """
    return 0.5 * (distribution(signed, 0.0) - distribution(other, 0.0)).abs().sum(-1)


def block_magnitudes(signed: Tensor, l1: Tensor, lengths: Tensor, aggregation: Aggregation) -> Tensor:
    """What stands for a block before shares are taken.

    Args:
        signed: [..., K] signed sums, nats.
        l1: [..., K] sums of the tokens' magnitudes, nats.
        lengths: [K] tokens per block.
        aggregation: ``signed``, ``l1``, or ``length_normalised``: the signed sum per token, which lets the few
            request tokens outweigh many tool tokens.

    Returns:
        [..., K], in the first two nats, in the last nats per token.
    """
    if aggregation == "length_normalised":
        return signed / lengths.clamp(min=1)
    return l1 if aggregation == "l1" else signed


def divergence(p: Tensor, q: Tensor, kind: Divergence) -> Tensor:
    """How far the student's distribution is from the teacher's.

    Args:
        p: [..., K] the student's.
        q: [..., K] the teacher's.
        kind: ``js`` is Jensen–Shannon over ln 2, in [0, 1]; the others are KL divergences in nats, in the
            direction that their name says (student‖teacher is KL(p‖q)). The paper penalises a KL whose
            direction is not public.

    Returns:
        [...] float64, not negative; a KL is infinite where its second argument lacks a block of the first,
        which smoothing prevents.

    Raises:
        ValueError: for an unknown kind.
    """
    p, q = p.double(), q.double()
    if kind == "js":
        middle = (p + q) / 2
        return ((_kl(p, middle) + _kl(q, middle)) / (2 * math.log(2))).clamp(0, 1)
    if kind == "kl_student_teacher":
        return _kl(p, q)
    if kind == "kl_teacher_student":
        return _kl(q, p)
    raise ValueError(f"found divergence {kind!r}; expected js, kl_student_teacher or kl_teacher_student")


def _kl(p: Tensor, q: Tensor) -> Tensor:
    terms = torch.where(p == 0, 0.0, p * (p / q).log())
    # Rounding can leave a tiny negative sum for equal arguments.
    return terms.sum(-1).clamp(min=0)
