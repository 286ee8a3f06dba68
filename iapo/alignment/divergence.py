"""Block distributions and their divergence: from two attributions to one number.

A distribution holds the blocks' shares of the total attribution, so that student and teacher are compared in how they
weigh the blocks and not in how confident they are.

Shapes: K blocks, any leading dimensions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

_MIN_TOTAL = 1e-300
"""Total magnitude below which a row counts as zero: shares of subnormal numbers do not add up to 1."""


Aggregation = Literal["signed", "l1", "length_normalised"]
"""A block's score: its signed sum, the sum of its tokens' magnitudes, or its signed sum per token."""


Divergence = Literal["js", "kl_student_teacher", "kl_teacher_student"]
"""Jensen–Shannon, KL(student ‖ teacher), or KL(teacher ‖ student)."""


def distribution(signed: Tensor, epsilon: float) -> Tensor:
    """Return the smoothed shares of the blocks' magnitudes.

    Args:
        signed: [..., K] block sums, nats. Only magnitudes count: with the positive parts alone, the correlation
            between penalty and correctness changes its sign.
        epsilon: mass added to every block before renormalising.

    Returns:
        [..., K] probabilities, float64; uniform where every block is zero.
    """
    magnitude = signed.double().abs()
    total = magnitude.sum(-1, keepdim=True)
    blocks = signed.shape[-1]
    shares = torch.where(total <= _MIN_TOTAL, 1 / blocks, magnitude / total)
    return (shares + epsilon) / (1 + blocks * epsilon)


def total_variation(signed: Tensor, other: Tensor) -> Tensor:
    """Return half the L1 distance between the unsmoothed block distributions of two attributions.

    Args:
        signed: [..., K] block sums, nats.
        other: [..., K] block sums of the other attribution, nats.

    Returns:
        [...] float64, in [0, 1].
    """
    return 0.5 * (distribution(signed, 0.0) - distribution(other, 0.0)).abs().sum(-1)


def block_magnitudes(signed: Tensor, l1: Tensor, lengths: Tensor, aggregation: Aggregation) -> Tensor:
    """Return the score of each block, before shares are taken.

    Args:
        signed: [..., K] signed sums, nats.
        l1: [..., K] sums of the tokens' magnitudes, nats.
        lengths: [K] tokens per block.
        aggregation: ``signed``, ``l1``, or ``length_normalised``: the signed sum per token, which lets the few
            request tokens outweigh many tool tokens.

    Returns:
        [..., K] nats for ``signed`` and ``l1``, nats per token for ``length_normalised``.
    """
    if aggregation == "length_normalised":
        return signed / lengths.clamp(min=1)
    return l1 if aggregation == "l1" else signed


def divergence(p: Tensor, q: Tensor, kind: Divergence) -> Tensor:
    """Return the divergence between the student's and the teacher's block distributions.

    Args:
        p: [..., K] the student's.
        q: [..., K] the teacher's.
        kind: ``js`` is the Jensen–Shannon divergence over ln 2, in [0, 1]; ``kl_student_teacher`` is KL(p ‖ q) and
            ``kl_teacher_student`` is KL(q ‖ p), both in nats. The paper penalises a KL whose direction is not public.

    Returns:
        [...] float64, not negative. A KL is infinite where its second argument is zero in a block and its first is
        not, which smoothing prevents.

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
