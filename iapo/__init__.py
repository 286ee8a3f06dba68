"""Input attribution-aware policy optimization (IAPO), with the teacher's attribution cached offline.

The package holds the method (attribution, alignment, the teacher cache, rewards) and the ground that
every compared method shares (data, tools, prompts, answers, models, the trainer). It imports none of
the sibling packages: ``baselines`` and ``benchmarks`` build on it, never the other way round.

The names below are those that a trainer of one's own needs (docs/own_trainer.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iapo.attribution.api import attribute as attribute
    from iapo.config.method import AlignmentConfig as AlignmentConfig
    from iapo.config.method import AttributionConfig as AttributionConfig
    from iapo.data.selection import dataset_row as dataset_row
    from iapo.data.store import read_split as read_split
    from iapo.models.loading import load_model as load_model
    from iapo.models.loading import save_model as save_model
    from iapo.models.processor import SUPPRESSED_TOKENS as SUPPRESSED_TOKENS
    from iapo.rewards.alignment import alignment_reward as alignment_reward
    from iapo.rewards.outcome import outcome_reward as outcome_reward
    from iapo.rollout.environment import ENVIRONMENTS as ENVIRONMENTS
    from iapo.teacher.cache import TeacherCache as TeacherCache
    from iapo.training.attribution_mixin import AttributionMixin as AttributionMixin
    from iapo.types import Example as Example
    from iapo.types import ToolCall as ToolCall

__version__ = "0.1.0"

# Imported when they are asked for: settings, files and downloads are used where there is no torch.
_HOMES = {
    "AlignmentConfig": "iapo.config.method",
    "AttributionConfig": "iapo.config.method",
    "AttributionMixin": "iapo.training.attribution_mixin",
    "ENVIRONMENTS": "iapo.rollout.environment",
    "Example": "iapo.types",
    "SUPPRESSED_TOKENS": "iapo.models.processor",
    "TeacherCache": "iapo.teacher.cache",
    "ToolCall": "iapo.types",
    "alignment_reward": "iapo.rewards.alignment",
    "attribute": "iapo.attribution.api",
    "dataset_row": "iapo.data.selection",
    "load_model": "iapo.models.loading",
    "outcome_reward": "iapo.rewards.outcome",
    "read_split": "iapo.data.store",
    "save_model": "iapo.models.loading",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iapo' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
