"""The entry point through which lmms-eval finds the model ``iapo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from iapo.jobs.places import use_writable_caches

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return the manifest of the model. Imports late, since lmms-eval calls this while it is being imported itself."""
    from lmms_eval.models.registry_v2 import ModelManifest

    # Where lmms-eval is started by hand, nothing has done so before.
    use_writable_caches(Path(__file__).parents[1])
    return ModelManifest(model_id="iapo", chat_class_path="benchmarks.agent.FigureAgent")
