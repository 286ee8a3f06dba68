"""From two attributions to one penalty: block scores, their distributions, and the divergence between them.

:func:`informativeness` measures, before any training, whether such a penalty separates right calls from wrong ones.
"""

from iapo.alignment.divergence import distribution, divergence, total_variation
from iapo.alignment.informativeness import informativeness
from iapo.alignment.penalty import penalties_of_calls

__all__ = ["distribution", "divergence", "informativeness", "penalties_of_calls", "total_variation"]
