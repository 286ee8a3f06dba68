"""The alignment penalty of a batch of calls: divergence of the student's block distribution from the teacher's.

It works on plain lists of block sums, so the reward function can read the teacher's from a cache and the audit can
compute them on the fly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from iapo.alignment.divergence import distribution, divergence
from iapo.config.schema import AlignmentConfig

BlockSums = Sequence[float]
"""Block scores of one call, nats, in the order P, R, I, T or that of the finer partition."""


def penalties_of_calls(
    student: Sequence[BlockSums | None],
    teacher: Sequence[BlockSums | None],
    config: AlignmentConfig,
) -> list[float | None]:
    """Return the divergence between student and teacher for each call.

    Args:
        student: [N] the student's block sums of each call; None where the call was not attributed.
        teacher: [N] the teacher's of the same calls; None where it has none.
        config: smoothing, kind of divergence and its upper bound.

    Returns:
        [N] divergences, in the unit of ``config.divergence``; None where either side is missing, and NaN where block
        sums are not finite.

    Raises:
        ValueError: where the lists differ in length.
    """
    penalties: list[float | None] = [None] * len(student)
    # In a finer partition prompts differ in their number of blocks.
    calls_by_blocks: dict[int, list[int]] = defaultdict(list)
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s is not None and t is not None:
            calls_by_blocks[len(s)].append(i)
    for rows in calls_by_blocks.values():
        p, q = (
            distribution(torch.tensor([sums[i] for i in rows], dtype=torch.float64), config.smoothing)
            for sums in (student, teacher)
        )
        for i, penalty in zip(rows, divergence(p, q, config.divergence).tolist(), strict=True):
            penalties[i] = penalty if config.max_divergence is None else min(penalty, config.max_divergence)
    return penalties
