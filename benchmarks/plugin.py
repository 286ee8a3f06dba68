"""The entry point through which lmms-eval finds the model ``iapo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return the manifest of the model. Imports late, since lmms-eval calls this while it is being imported itself."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="iapo", chat_class_path="benchmarks.agent.FigureAgent")
