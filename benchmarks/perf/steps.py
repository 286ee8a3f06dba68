"""A training step with attribution against one without: the same run, every other step."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.perf.timing import Spread, spread
from iapo import train as training
from iapo.alignment_trainer import AlignmentTrainer
from iapo.config import Config
from iapo.methods import Method
from iapo.types import Example


class EveryOtherStep(AlignmentTrainer):
    """Attributes in even steps; an odd step is plain GRPO on the outcome."""

    def _attribute(self, inputs: list[dict[str, Any]]) -> None:
        if self.state.global_step % 2 == 0:
            super()._attribute(inputs)
            return
        for row in inputs:
            row["prompt_key"] = ""
            row["student_block_sums"] = row["teacher_block_sums"] = None


def step_times(
    method: Method, config: Config, examples: Sequence[Example], *, start: Path, cache: Path, steps: int
) -> dict[str, Spread]:
    """Seconds of a step by part, over a run as long as the profile's.

    Args:
        method: with attribution.
        config: of the profile.
        examples: training questions.
        start: the student's cold start.
        cache: the teacher's.
        steps: of the run; the first four are warm-up.

    Returns:
        ``grpo_step, iapo_step, attribution, generation, loss``.
    """
    with tempfile.TemporaryDirectory() as directory, mock.patch.object(training, "AlignmentTrainer", EveryOtherStep):
        work = Path(directory)
        rows = training.train(
            method,
            config,
            replace(config.train, steps=steps, save_every=10 * steps),
            examples,
            start=start,
            cache=cache,
            work=work,
            output=work / "model",
            seed=config.seeds[0],
        )
    # TRL counts steps from 1 in its logs, from 0 while a step runs.
    attributed = [row for row in rows[4:] if row["step"] % 2 == 1]
    plain = [row for row in rows[4:] if row["step"] % 2 == 0]
    return {
        "grpo_step": spread([row["seconds/step"] for row in plain]),
        "iapo_step": spread([row["seconds/step"] for row in attributed]),
        "attribution": spread([row["seconds/attribution"] for row in attributed]),
        "generation": spread([row["seconds/generation"] for row in rows[4:]]),
        "loss": spread([row["seconds/loss"] for row in rows[4:]]),
    }
