"""Datasets of questions about figures: ingestion, splits by figure, storage on disk, and prompt rendering.

Two sources provide the same six test sets: the published ReFocus records and a small synthetic mini world.
"""

from iapo.data.build import build
from iapo.data.prompts import open_image, prompt_messages
from iapo.data.selection import dataset_row, training_prompts
from iapo.data.store import DataError, read_split, verify_manifest

__all__ = [
    "DataError",
    "build",
    "dataset_row",
    "open_image",
    "prompt_messages",
    "read_split",
    "training_prompts",
    "verify_manifest",
]
