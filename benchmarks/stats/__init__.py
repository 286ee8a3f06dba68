"""Intervals, tests, corrections and verdicts for accuracies and for paired differences over items and seeds."""

from benchmarks.stats.components import Scores
from benchmarks.stats.multiplicity import fixed_sequence, holm
from benchmarks.stats.paired import (
    MacroAverage,
    PairedDifference,
    macro_average,
    macro_paired_difference,
    paired_difference,
)
from benchmarks.stats.proportions import McNemar, mcnemar
from benchmarks.stats.verdicts import CANNOT_TELL, verdict

__all__ = [
    "CANNOT_TELL",
    "MacroAverage",
    "McNemar",
    "PairedDifference",
    "Scores",
    "fixed_sequence",
    "holm",
    "macro_average",
    "macro_paired_difference",
    "mcnemar",
    "paired_difference",
    "verdict",
]
