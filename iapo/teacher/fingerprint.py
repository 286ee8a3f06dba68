"""The fingerprint of a teacher's cache: a hash of everything, except the prompt, that its rows depend on.

A cache whose fingerprint differs from the current teacher's is not used, so a student is never compared with a teacher
of other weights, settings or code.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from iapo.artifacts.files import digest, sha256_file
from iapo.config.schema import AttributionConfig
from iapo.config.sources import Precision
from iapo.teacher.rows import SCHEMA_VERSION, CacheError


def fingerprint(
    weights: str, processor: str, attribution: AttributionConfig, code: str, precision: Precision = "float32"
) -> str:
    """Return one hash of everything, except the prompt, that a row of the cache depends on.

    Args:
        weights: hash of the teacher's weights, from :func:`hash_weights`.
        processor: hash of its processor, from :func:`hash_processor`.
        attribution: attribution settings; those that only bound memory are left out.
        code: digest of the code that computes the rows, from :func:`iapo.artifacts.code_digest.code_of`; changed code
            invalidates them.
        precision: dtype that the teacher's weights are loaded in.
    """
    settings = asdict(attribution)
    for name in ("tokens_per_forward", "max_tokens"):
        settings.pop(name)
    return digest(
        str(SCHEMA_VERSION).encode(),
        weights.encode(),
        processor.encode(),
        json.dumps(settings, sort_keys=True).encode(),
        code.encode(),
        precision.encode(),
    )


def hash_weights(directory: Path) -> str:
    """Return the hash of the weights in a pretrained directory.

    Raises:
        CacheError: if the directory holds no safetensors files.
    """
    return _hash_files(directory, "*.safetensors")


def hash_processor(directory: Path) -> str:
    """Return the hash of the processor in a pretrained directory: tokenizer, chat template and image settings.

    Raises:
        CacheError: if the directory holds no such files.
    """
    return _hash_files(directory, "*token*", "*processor*", "*template*")


def _hash_files(directory: Path, *patterns: str) -> str:
    files = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    if not files:
        raise CacheError(f"{directory}: found none of {', '.join(patterns)}; expected a saved model")
    return digest(*(f"{path.name}:{sha256_file(path)}".encode() for path in files))
