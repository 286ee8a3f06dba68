"""Time of a training step with and without attribution, in one run that alternates between the two."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.perf.timing import Spread, spread
from iapo.config.method_registry import Method
from iapo.config.schema import Config
from iapo.training.attribution_mixin import AlignmentTrainer
from iapo.training.rollout_recorder import RolloutRow
from iapo.training.run import train
from iapo.training.trainer import Sources
from iapo.types import Example


class EveryOtherStep(AlignmentTrainer):
    """A trainer that attributes calls in even steps; odd steps are plain GRPO on the outcome reward."""

    def _attribute(self, inputs: list[RolloutRow]) -> None:
        if self.state.global_step % 2 == 0:
            super()._attribute(inputs)
            return
        for row in inputs:
            row["prompt_key"] = ""
            row["student_block_sums"] = row["teacher_block_sums"] = None


def timed_settings(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training as those of one whose steps are timed: nothing is asked or kept along the way.

    Args:
        train: section ``train`` of the configuration.
    """
    return {**train, "steps": max(8, train["steps"]), "save_every": 10_000, "dev_every": 0, "average_last": 0}


def step_times(
    method: Method, config: Config, examples: Sequence[Example], *, start: Path, cache: Path
) -> dict[str, Spread]:
    """Train for as many steps as configured, and time the parts of a step.

    Args:
        method: a method with attribution.
        config: configuration of the profile; the first four training steps are warm-up.
        examples: training questions.
        start: checkpoint of the student's cold start.
        cache: directory of the teacher's cache.

    Returns:
        Timings of ``grpo_step``, ``iapo_step``, ``attribution``, ``generation`` and ``loss``.
    """
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        rows = train(
            replace(method, trainer=f"{__name__}:{EveryOtherStep.__name__}"),
            config,
            examples,
            start=start,
            sources=Sources(cache=cache),
            run_dir=run_dir,
            output=run_dir / "model",
            seed=0,
        )
    # TRL's logs count steps from 1, while ``global_step`` during a step counts from 0.
    attributed = [row for row in rows[4:] if row["step"] % 2 == 1]
    plain = [row for row in rows[4:] if row["step"] % 2 == 0]
    return {
        "grpo_step": spread([row["seconds/step"] for row in plain]),
        "iapo_step": spread([row["seconds/step"] for row in attributed]),
        "attribution": spread([row["seconds/attribution"] for row in attributed]),
        "generation": spread([row["seconds/generation"] for row in rows[4:]]),
        "loss": spread([row["seconds/loss"] for row in rows[4:]]),
    }
