"""The sizes at which the checks run: the paper's on a GPU, tiny ones on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from iapo.config.sources import HubConfig, RepositoryConfig
from iapo.jobs.model_sizes import ModelSize, model_size


@dataclass(frozen=True)
class Scale:
    """Sizes of models, prompts and batches."""

    name: str
    student: ModelSize
    teacher: ModelSize
    shallow_layers: int
    """Layers of each tower where a CPU computes the same in float32."""
    image_pixels: tuple[int, int]
    """Width and height of a figure."""
    prompt_tokens: int
    """Of a prompt with its figure; a prompt whose tools alone are longer stays so."""
    calls: int
    """Of a prompt that are attributed together."""
    points: int
    """Of the path."""
    turn_tokens: int
    """Of the longest turn of a rollout."""
    groups: int
    """Of a training step."""
    group_size: int
    generated: int
    """Tokens of a turn that is generated to be timed."""
    questions: int
    """Answered in one batch."""
    matmul: int
    """Side of the square matrices that throughput is measured with."""
    copied: int
    """Bytes that are copied to measure bandwidth."""
    repeats: int
    """Of each timing."""
    captum_points: int
    """Most integration steps that captum is given to reach our error."""


def _published(name: str) -> ModelSize:
    # Sizes are those of the name; no commit is read.
    return model_size(RepositoryConfig(repo=f"Qwen/{name}", revision="0" * 40), HubConfig())


REAL = Scale(
    name="real",
    student=_published("Qwen2.5-VL-3B-Instruct"),
    teacher=_published("Qwen2.5-VL-7B-Instruct"),
    shallow_layers=4,
    image_pixels=(1120, 840),
    prompt_tokens=2700,
    calls=8,
    points=8,
    turn_tokens=256,
    groups=2,
    group_size=8,
    generated=32,
    questions=16,
    matmul=8192,
    copied=4 * 2**30,
    repeats=3,
    captum_points=16,
)
"""The paper's models; a figure of 1,200 tokens behind 1,500 of text, which is what the estimate takes for text."""

_TINY = ModelSize(2, 32, 96, 2, 1, 300, tied=True, vision_layers=2, vision_hidden=32, vision_mlp=64)

TINY = Scale(
    name="tiny",
    student=_TINY,
    teacher=replace(_TINY, hidden=64, heads=4, kv_heads=2, mlp=128, tied=False),
    shallow_layers=1,
    image_pixels=(140, 112),
    prompt_tokens=460,
    calls=4,
    points=3,
    turn_tokens=110,
    groups=1,
    group_size=4,
    generated=4,
    questions=4,
    matmul=128,
    copied=2**20,
    repeats=1,
    captum_points=5,
)
"""What two cores do in seconds; the figures mean nothing."""

SCALES = {scale.name: scale for scale in (REAL, TINY)}
