"""What a run with pretrained models will need: GPU memory, hours and disk, before any of it is spent. No torch.

``python -m baselines.estimate --configfile config/paper.yaml`` prints it; docs/estimate.md has the formulas, which are
:mod:`iapo.jobs.costs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from tabulate import tabulate

from iapo.config.method import AttributionConfig, TrainConfig
from iapo.config.method_registry import Method, resolve, tuned_method
from iapo.config.schema import Config, load_config
from iapo.config.sources import PretrainedConfig
from iapo.jobs.costs import (
    GB,
    Lengths,
    attribution_bytes,
    attribution_flops,
    generation_bytes,
    longest_lengths,
    running_memory,
    sampling_seconds,
    step_seconds,
    training_memory,
    typical_lengths,
    weight_bytes,
)
from iapo.jobs.measured_card import measured_hardware
from iapo.jobs.model_sizes import ModelSize, UnknownModelError, model_size
from iapo.tools.registry import tools_for

_CHARTS: dict[str, tuple[float, float]] = {"h_bar": (4722, 444), "v_bar": (9622, 382), "charxiv": (0, 199)}
"""Test set → questions of ReFocus_Data to train on and to test on."""


_TABLES = {"vwtq": 750, "vwtq_syn": 250, "vtabfact": 250}
"""Test set → questions that we split."""


_LABELS = 5
"""Of a figure."""


_START_HOURS = 0.05
"""For a job to load its models."""


_DATA_BYTES = 8 * GB
"""ReFocus_Data, downloaded and made into our records."""


_PROMPTS_TOGETHER = 16
"""Prompts that are sampled in one batch outside training."""


_CHECKPOINTS = 2
"""Kept of every training run."""


_SAVED_BYTES = 4
"""Of one weight of a saved policy; a checkpoint has AdamW's moments besides, three times as much."""


@dataclass(frozen=True)
class Stage:
    """Jobs of one kind."""

    name: str
    jobs: int
    gpus: int
    """Of each job."""
    memory_gb: float
    """That each of these GPUs must have, GB."""
    hours: float
    """Of each job."""


@dataclass(frozen=True)
class Estimate:
    """All of a run up to its table."""

    stages: tuple[Stage, ...]
    """In the order in which they wait for each other."""
    disk_gb: float
    """That it leaves on disk, GB."""
    assumes: str
    """What was not known."""

    @property
    def gpus(self) -> int:
        """Of the largest job."""
        return max(stage.gpus for stage in self.stages)

    @property
    def memory_gb(self) -> float:
        """That every GPU must have, GB."""
        return max(stage.memory_gb for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        """All GPUs' hours together."""
        return sum(stage.jobs * stage.gpus * stage.hours for stage in self.stages)

    def wall_hours(self, gpus: int) -> float:
        """Hours on one machine with some GPUs, stage by stage.

        Raises:
            ValueError: where the largest job needs more.
        """
        if gpus < self.gpus:
            raise ValueError(f"found {gpus} GPUs; the largest job needs {self.gpus} (hardware.processes)")
        return sum(math.ceil(stage.jobs / (gpus // stage.gpus)) * stage.hours for stage in self.stages)


def estimate(config: Config, methods: Mapping[str, Method]) -> Estimate:
    """What a run with pretrained models needs, from its configuration alone.

    Args:
        config: of the run.
        methods: all methods by name.

    Raises:
        UnknownModelError: for tiny models, which need nothing to speak of, and for models whose sizes are not known.
    """
    return _Reckoning(config, methods).result()


@dataclass(frozen=True)
class _Model:
    """A pretrained model and how large it is."""

    pretrained: PretrainedConfig
    size: ModelSize

    def typical(self, turn_tokens: int) -> Lengths:
        """Rollouts that time is reckoned with."""
        return typical_lengths(self.pretrained, turn_tokens)

    def longest(self, turn_tokens: int, completion: int | None = None) -> Lengths:
        """Rollouts that memory is reckoned with."""
        return longest_lengths(self.pretrained, turn_tokens, completion)


@dataclass(frozen=True)
class _Run:
    """One training run."""

    name: str
    """Of its stage."""
    settings: TrainConfig
    attribution: AttributionConfig | None = None
    beside: float = 0
    """Bytes of the verifier in each process."""


class _Reckoning:
    """Adds up what one configuration needs, stage by stage."""

    def __init__(self, config: Config, methods: Mapping[str, Method]) -> None:
        self._config, self._methods, self._hardware = config, methods, measured_hardware(config.hardware)
        self._student, self._teacher = self._model("student"), self._model("teacher")
        self._released = {
            name: _Model(each.model, model_size(each.model.source, config.hub))
            for name, each in config.released.items()
        }
        self._train, self._dev, self._test = questions(config)
        self._runs = {name: self._run(name) for name in config.methods}
        self._trials = self._tuned()

    def _model(self, whose: Literal["student", "teacher"]) -> _Model:
        pretrained = getattr(self._config, whose).model.pretrained
        if pretrained is None:
            raise UnknownModelError(f"{whose}.model: found a tiny model; estimates are made of pretrained ones")
        return _Model(pretrained, model_size(pretrained.source, self._config.hub))

    def _run(self, name: str) -> _Run:
        """A training run of a method or variant."""
        asks_teacher = self._config.verifier.kind == "teacher"
        verifier = self._teacher.size.parameters * weight_bytes(self._hardware)
        method, resolved = resolve(name, self._config, self._methods)
        verifies = method.uses_verifier and asks_teacher
        return _Run(
            f"train methods{' with attribution' if method.uses_teacher else ' with a verifier' if verifies else ''}",
            resolved.train,
            resolved.attribution if method.uses_teacher else None,
            verifier if verifies else 0,
        )

    def _tuned(self) -> list[_Run]:
        """A trial of each method whose weight is chosen."""
        chosen = {str(tuned_method(name, self._config, self._methods) or "") for name in self._runs} - {""}
        runs = [self._run(name) for name in sorted(chosen)]
        return [replace(run, settings=replace(run.settings, steps=self._config.tuning.steps)) for run in runs]

    def result(self) -> Estimate:
        """All stages and the disk."""
        config, teacher_run = self._config, _Run("train the teacher", self._config.teacher.train)
        stages = [replace(self._training(teacher_run, self._teacher), jobs=len(config.asked_teachers))]
        if config.student.first_stage:
            stages.append(self._training(_Run("train the student's first stage", config.student.first_stage)))
        stages.append(self._sample_student())
        if any(run.attribution for run in self._runs.values()):
            stages += [self._cache_teacher(), self._ask_teachers()]
        stages += [self._choose_weight(run) for run in self._trials]
        stages += [
            self._training(run, seeds=len(batch)) for run in self._runs.values() for batch in config.seed_batches
        ]
        stages += self._evaluations()
        hardware = f"{self._hardware.tflops:.0f} TFLOP/s and {self._hardware.bandwidth_tb:g} TB/s a GPU"
        return Estimate(_alike_together(stages), self._disk_bytes() / GB, hardware)

    def _training(self, run: _Run, model: _Model | None = None, seeds: int = 1) -> Stage:
        """One job; the student's where no model is given."""
        model = model or self._student
        settings, hardware = run.settings, self._hardware
        step = step_seconds(model.size, hardware, settings, model.typical(settings.turn_tokens), run.attribution)
        longest = model.longest(settings.turn_tokens, settings.max_completion_length)
        memory = training_memory(model.size, hardware, settings, longest, run.attribution, run.beside)
        return Stage(run.name, 1, hardware.processes, memory, seeds * settings.steps * step / 3600 + _START_HOURS)

    def _choose_weight(self, run: _Run) -> Stage:
        trial, asked = self._training(run), self._answering_hours(self._dev, self._student, turns=2)
        return replace(trial, name="choose weights", hours=len(self._config.tuning.factors) * (trial.hours + asked))

    def _sample_student(self) -> Stage:
        sampled = self._prompts(self._config.train.prompts_per_set) * self._config.teacher.student_calls
        hours = self._sampling_hours(sampled, self._student, self._config.train.turn_tokens)
        memory = self._answering_memory(self._student, _PROMPTS_TOGETHER)
        return Stage("sample the student", 1, 1, memory, hours + _START_HOURS)

    def _cache_teacher(self) -> Stage:
        """One job for each setting of the attribution that some method has."""
        config, teacher = self._config, self._teacher
        prompts = self._prompts(config.train.prompts_per_set)
        turn_tokens = config.teacher.train.turn_tokens
        hours = self._sampling_hours((1 + config.teacher.sampled_calls) * prompts, teacher, turn_tokens)
        hours += self._attributing_hours(teacher, config.teacher_attribution, prompts * candidates(config), prompts)
        used = {
            replace(run.attribution, n_steps=config.teacher.n_steps) for run in self._runs.values() if run.attribution
        }
        memory = self._attributing_memory([teacher])
        return Stage("cache the teacher's attribution", len(used), 1, memory, hours + _START_HOURS)

    def _ask_teachers(self) -> Stage:
        config = self._config
        prompts = self._prompts(config.audit.prompts_per_set)
        calls = prompts * config.teacher.student_calls
        teachers = [self._teacher] * len(config.asked_teachers)
        hours = self._attributing_hours(self._student, config.attribution, calls, prompts)
        hours += len(teachers) * self._attributing_hours(self._teacher, config.teacher_attribution, calls, prompts)
        memory = self._attributing_memory([self._student, *teachers])
        return Stage("ask whether it is informative", 1, 1, memory, hours + _START_HOURS)

    def _evaluations(self) -> list[Stage]:
        """Of the policies that no method trains and of the others."""
        config = self._config
        turns = 4 if config.evaluation.image_help else 2
        off_the_shelf = [name for name in config.reference_policies if name != "api"]
        own = [(self._teacher if "teacher" in name else self._student) for name in off_the_shelf]
        policies = [(self._released.get(name, model), 1) for name, model in zip(off_the_shelf, own, strict=True)]
        policies += [(self._student, len(batch)) for _ in self._runs for batch in config.seed_batches]
        stages = []
        for model, seeds in policies:
            hours = seeds * self._answering_hours(self._test, model, turns)
            memory = self._answering_memory(model, config.evaluation.batch_size)
            whose = "the teacher" if model is self._teacher else "the student"
            name = f"evaluate {'released weights' if model in self._released.values() else whose}"
            stages.append(Stage(name, 1, 1, memory, hours + _START_HOURS))
        return stages

    def _prompts(self, per_set: int) -> float:
        """Training questions that are rolled out."""
        return sum(min(per_set, count) for count in self._train)

    def _sampling_hours(self, prompts: float, model: _Model, turn_tokens: int) -> float:
        typical = model.typical(turn_tokens)
        together = _PROMPTS_TOGETHER
        return sampling_seconds(model.size, self._hardware, prompts, typical, together=together, turns=1) / 3600

    def _answering_hours(self, counts: Sequence[float], model: _Model, turns: int) -> float:
        evaluation = self._config.evaluation
        typical, together = model.typical(evaluation.turn_tokens), evaluation.batch_size
        return sampling_seconds(model.size, self._hardware, sum(counts), typical, together=together, turns=turns) / 3600

    def _answering_memory(self, model: _Model, together: int) -> float:
        longest = model.longest(self._config.evaluation.turn_tokens)
        return running_memory([model.size], self._hardware, generation_bytes(model.size, together, longest))

    def _attributing_hours(self, model: _Model, config: AttributionConfig, calls: float, prompts: float) -> float:
        typical = model.typical(self._config.train.turn_tokens)
        flops = attribution_flops(model.size, config, calls, typical, prompts)
        return flops / (self._hardware.tflops * 1e12) / 3600

    def _attributing_memory(self, models: Sequence[_Model]) -> float:
        config, precision = self._config.teacher_attribution, self._hardware.precision
        turn_tokens = self._config.train.turn_tokens
        peaks = [attribution_bytes(model.size, config, model.longest(turn_tokens), precision) for model in models]
        return running_memory([model.size for model in models], self._hardware, max(peaks))

    def _disk_bytes(self) -> float:
        """Downloads, the copies that training starts from, every saved policy and what is kept of checkpoints."""
        config, rank = self._config, self._hardware.lora_rank
        students = len(self._runs) * len(config.seeds) + len(self._trials) * len(config.tuning.factors)
        students += config.student.first_stage is not None
        published = {
            model.pretrained.source.repo: 2 * model.size.parameters
            for model in (self._student, self._teacher, *self._released.values())
        }
        total = _DATA_BYTES + sum(published.values())
        for model, runs in [(self._student, students), (self._teacher, len(config.asked_teachers))]:
            trained = model.size.adapters(rank) if rank else model.size.parameters
            total += _SAVED_BYTES * ((1 + runs) * model.size.parameters + runs * _CHECKPOINTS * 3 * trained)
        return total


def questions(config: Config) -> tuple[list[float], list[float], list[float]]:
    """About how many questions of ReFocus_Data each set has, to train on, to choose by and to test on."""
    refocus = config.data.refocus
    tested, held = (refocus.table_test_rate, refocus.dev_rate) if refocus else (0.0, 0.0)
    sides = _CHARTS | {name: (count * (1 - tested), count * tested) for name, count in _TABLES.items()}
    return (
        [count * (1 - held) for name, (count, _) in sides.items() if name in config.train.sets],
        [count * held for name, (count, _) in sides.items() if name in config.train.sets],
        [count for name, (_, count) in sides.items() if name in config.test_sets],
    )


def candidates(config: Config) -> int:
    """Most calls that the cache attributes for a prompt: the teacher's, those near its greedy one, the student's."""
    teacher = config.teacher
    tools = len(tools_for("table"))
    enumerated = {"none": 0, "tools": tools, "labels": _LABELS, "all": tools + _LABELS}[teacher.enumerated]
    return 1 + teacher.sampled_calls + enumerated + teacher.student_calls


def _alike_together(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Jobs that need the same, in one line."""
    jobs: dict[Stage, int] = {}
    for stage in stages:
        alike = replace(stage, jobs=0)
        jobs[alike] = jobs.get(alike, 0) + stage.jobs
    return tuple(replace(stage, jobs=count) for stage, count in jobs.items())


def estimate_text(found: Estimate, gpus: int | None = None) -> str:
    """One sentence and a table of the stages.

    Args:
        found: the estimate.
        gpus: of the machine; as many as the largest job needs when absent.
    """
    gpus = gpus or found.gpus
    rows = [(stage.name, stage.jobs, stage.gpus, f"{stage.memory_gb:.0f}", stage.hours) for stage in found.stages]
    return (
        f"needs about {found.memory_gb:.0f} GB on each of {gpus} GPUs, about {found.wall_hours(gpus):.0f} h "
        f"({found.gpu_hours:.0f} GPU-hours) and {found.disk_gb:.0f} GB of disk\n"
        f"({found.assumes}; docs/estimate.md)\n\n"
        + tabulate(rows, headers=("stage", "jobs", "GPUs each", "GB a GPU", "hours each"), floatfmt=".1f")
    )


def read_config(paths: Sequence[Path]) -> Config:
    """The configuration of some files laid over each other, as Snakemake lays them.

    Raises:
        ConfigError: for an unknown key or a value out of range.
        OSError: for a file that is not there.
    """
    return load_config(merge_configs([yaml.safe_load(path.read_text()) or {} for path in paths]))


def merge_configs(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return some configurations laid over each other, as Snakemake lays them; later ones come before earlier ones."""
    # Here, since a bare machine that is measured has no Snakemake and asks this module how many questions there are.
    from snakemake.utils import update_config

    raw: dict[str, Any] = {}
    for part in parts:
        update_config(raw, part)
    return raw
