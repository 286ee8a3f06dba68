"""The answer in a turn, and whether it is right: by one rule for training and evaluation, and by each set's own rule.

No torch, so that the results table can use it.
"""

from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.answers.official import official_score

__all__ = ["extract", "official_score", "score"]
