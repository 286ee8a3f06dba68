"""The compared methods. Each file holds only what differs: its reward terms and settings.

To add one, write a file with a :class:`iapo.config.method_registry.Method` and name it in :data:`METHODS`.
"""

from baselines import call_bonus, exact_match, iapo_alignment, iapo_two_stage, torl, trm, vtool_r1
from baselines.controls import CONTROLS
from baselines.distillation import DISTILLATION
from baselines.reference_penalties import REFERENCE_PENALTIES
from iapo.config.method_registry import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        vtool_r1.METHOD,
        torl.METHOD,
        torl.MISSING_FAILS,
        trm.METHOD,
        exact_match.METHOD,
        exact_match.ALONE,
        call_bonus.METHOD,
        *DISTILLATION,
        iapo_alignment.METHOD,
        iapo_two_stage.METHOD,
        *CONTROLS,
        *REFERENCE_PENALTIES,
    )
}
"""Name → method, in the order of the tables."""
