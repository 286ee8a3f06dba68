"""Settings of the two policies, the teacher and the student; read through :mod:`iapo.config.schema`."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from iapo.config.method import TrainConfig
from iapo.config.mini_world import ColdStartConfig, HabitConfig, ModelConfig
from iapo.config.sources import SETTINGS, Count, Rate, RowName

Enumerated = Literal["none", "tools", "labels", "all"]
"""Which legal calls near the teacher's greedy one are candidates."""


@dataclass(frozen=True, config=SETTINGS)
class TeacherConfig:
    """The stronger model whose attribution is cached once, offline."""

    model: ModelConfig = ModelConfig(hidden_size=96, num_layers=3)
    """Architecture."""
    cold_start: ColdStartConfig = ColdStartConfig()
    """Supervised stages."""
    train: TrainConfig = TrainConfig(steps=30)
    """GRPO on the outcome alone."""
    trained: bool = True
    """Whether it is trained at all; false takes a pretrained model as it is."""
    n_steps: Count = 16
    """Points on the path; offline, so it can afford more than the student. All else is `attribution`'s."""
    sampled_calls: Count = 4
    """Calls sampled per prompt, besides the greedy one."""
    train_hint_rate: Rate = 0.0
    """Shortcut world: how often the hint is right while the teacher is trained by GRPO."""
    enumerated: Enumerated = "tools"
    """Legal calls added to them: every tool with the greedy call's labels, its tool with every label, or both."""
    student_calls: Annotated[int, Field(ge=0)] = 8
    """Calls sampled per prompt from the cold-started student, whose distinct ones are added too."""
    train_seed: int = 0
    """Seed of the GRPO run whose teacher is cached, and of the sampled calls; start j adds j to the run's."""
    cold_starts: Count = 1
    """Teachers, each with a cold start (seed: `cold_start.seed` plus its number), a GRPO run and a cache of its own.
    The i-th of `seeds` takes the teacher i modulo this; a divisor of `student.cold_starts`."""


@dataclass(frozen=True, config=SETTINGS)
class StudentConfig:
    """The small policy that every method trains."""

    model: ModelConfig = ModelConfig()
    """Architecture."""
    cold_start: ColdStartConfig = ColdStartConfig()
    """Supervised stages."""
    first_stage: TrainConfig | None = None
    """GRPO on the outcome alone before any method, once for all: the paper's cold-start stage. null starts the
    methods from the supervised stages."""
    cold_starts: Count = 1
    """Cold starts (seeds: `cold_start.seed` plus their numbers), so that figures hold for more than one. The i-th of
    `seeds` trains from cold start i modulo this; those that no seed trains from are not made."""
    habits: dict[RowName, HabitConfig] = field(default_factory=dict)
    """Name → habit that a student is taught after its cold start, where the outcome shall be sparse: a start that a
    variant names (`variants.<name>.start`)."""
