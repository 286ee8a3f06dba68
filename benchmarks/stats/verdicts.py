"""What a comparison says, in words: better, worse, equivalent, inconclusive, or that this world cannot tell."""

from __future__ import annotations

from benchmarks.stats.paired import PairedDifference

NOT_COMPUTED = "not computed: "
"""Beginning of the verdict on a comparison that lacks records."""

CANNOT_TELL = "this world cannot tell"
"""Verdict where even an oracle is not found better: that nothing was found then says nothing."""


def verdict(difference: PairedDifference, p: float, *, level: float, margin: float) -> str:
    """Return the result of a comparison in words.

    Args:
        difference: the paired difference.
        p: its p-value, adjusted where it is one of several comparisons.
        level: confidence level of the tests and of the interval.
        margin: largest difference that does not matter, in the unit of the scores.

    Returns:
        "better" or "worse"; else "equivalent (within ±3 points)" if the difference is shown to lie within the margin,
        or "inconclusive (±5.2 points)" with half the width of the interval.

    Raises:
        ValueError: if the p-value is missing or outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"found p={p}; expected it in [0, 1]: compare first")
    if p < 1 - level:
        return "better" if difference.delta > 0 else "worse"
    if difference.is_equivalent(margin, level):
        return f"equivalent (within ±{100 * margin:g} points)"
    half = max(difference.high - difference.delta, difference.delta - difference.low)
    return f"inconclusive (±{100 * half:.1f} points)"
