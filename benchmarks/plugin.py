"""The entry point by which lmms-eval finds the model ``iapo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """What lmms-eval registers. Imports late: lmms-eval calls this while it is itself being imported."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="iapo", chat_class_path="benchmarks.agent.FigureAgent")
