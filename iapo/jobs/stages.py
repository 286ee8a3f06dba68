"""The jobs of a run with pretrained models, kind by kind: what each needs of GPUs, memory and time. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from iapo.config.method import AttributionConfig, TrainConfig
from iapo.config.method_registry import Method, resolve, tuned_method
from iapo.config.schema import Config
from iapo.config.sources import PretrainedConfig
from iapo.jobs.lengths import GB, Distillation, Lengths, longest_lengths, typical_lengths
from iapo.jobs.memory import (
    HOST_OVERHEAD,
    PIXEL_BYTES,
    attribution_bytes,
    generation_bytes,
    host_memory,
    running_memory,
    training_memory,
    weight_bytes,
)
from iapo.jobs.model_sizes import ModelSize, UnknownModelError, model_size
from iapo.jobs.times import Rates, attribution_flops, sampling_seconds, step_seconds, sustained
from iapo.tools.registry import tools_for

Kind = Literal[
    "copy", "teacher", "first_stage", "student_calls", "cache", "informative", "tuning", "policy", "evaluation"
]
"""Kinds of jobs, each what one or more rules run."""


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


_PROMPTS_TOGETHER, _TOKENS_TOGETHER, _PROMPTS_OF_ENGINE = 16, 2**14, 128
"""Prompts that are sampled in one batch outside training; their tokens where the teacher writes; prompts that vLLM is
given at once (``iapo.teacher.turns``)."""


_CHECKPOINTS = 2
"""Of a training that runs."""


_SAVED_BYTES = 4
"""Of one weight of a saved policy; a checkpoint has AdamW's moments besides, three times as much."""


@dataclass(frozen=True)
class Stage:
    """Jobs of one kind."""

    kind: Kind
    """By which a rule asks for its limits (:func:`iapo.jobs.limits.limits`)."""
    name: str
    jobs: int
    gpus: int
    """Of each job."""
    memory_gb: float
    """That each of these GPUs must have, GB."""
    host_gb: float
    """That the machine's own memory must have for a job, GB."""
    hours: float
    """Of each job, at what public runs came to."""
    least_hours: float
    """The same at best."""


def jobs_of(config: Config, methods: Mapping[str, Method]) -> tuple[tuple[Stage, ...], float]:
    """All jobs of a run, those that need the same in one stage, and the disk that it leaves, bytes.

    Args:
        config: of the run.
        methods: all methods by name.

    Raises:
        UnknownModelError: for tiny models, which need nothing to speak of, and for models whose sizes are not known.
    """
    careful, hopeful = (_Reckoning(config, methods, at_best=at_best) for at_best in (False, True))
    pairs = zip(careful.stages(), hopeful.stages(), strict=True)
    return _alike_together([replace(stage, least_hours=best.hours) for stage, best in pairs]), careful.disk_bytes()


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

    kind: Kind
    name: str
    """Of its stage."""
    settings: TrainConfig
    attribution: AttributionConfig | None = None
    distillation: Distillation | None = None
    cache: AttributionConfig | None = None
    """Of the teacher's cache that it reads."""
    beside: float = 0
    """Bytes of the teacher in each process, where it is the verifier or asked for its probabilities."""


class _Reckoning:
    """Adds up what one configuration needs, stage by stage."""

    def __init__(self, config: Config, methods: Mapping[str, Method], *, at_best: bool) -> None:
        self._config, self._methods, self._hardware, self._at_best = config, methods, config.hardware, at_best
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
        method, resolved = resolve(name, self._config, self._methods)
        asks = method.asks_teacher(self._config)
        what = " with attribution" if method.uses_teacher else " with a verifier" if asks else ""
        return _Run(
            "policy",
            f"train methods{' with distillation' if method.distils else what}",
            resolved.train,
            resolved.attribution if method.uses_teacher else None,
            self._distillation(method),
            resolved.teacher_attribution if method.reads_cache else None,
            self._teacher.size.parameters * weight_bytes(self._hardware) if asks else 0,
        )

    def _distillation(self, method: Method) -> Distillation | None:
        if method.distils == "calls":
            return Distillation(calls=1 + self._config.teacher.sampled_calls)
        return Distillation(teacher=self._teacher.size) if method.distils else None

    def _tuned(self) -> list[_Run]:
        """A trial of each method whose weight is chosen."""
        chosen = {str(tuned_method(name, self._config, self._methods) or "") for name in self._runs} - {""}
        runs = [self._run(name) for name in sorted(chosen)]
        return [
            replace(run, kind="tuning", settings=replace(run.settings, steps=self._config.tuning.steps)) for run in runs
        ]

    def stages(self) -> list[Stage]:
        """All jobs, in the order in which they wait for each other."""
        config, stages = self._config, [self._copying()]
        if config.teacher.trained:
            run = _Run("teacher", "train the teacher", config.teacher.train)
            stages.append(replace(self._training(run, self._teacher), jobs=len(config.asked_teachers)))
        if config.student.first_stage:
            run = _Run("first_stage", "train the student's first stage", config.student.first_stage)
            stages.append(self._training(run))
        stages.append(self._sample_student())
        if any(run.cache for run in self._runs.values()):
            stages.append(self._cache_teacher())
        if any(run.attribution for run in self._runs.values()):
            stages.append(self._ask_teachers())
        stages += [self._choose_weight(run) for run in self._trials]
        stages += [
            self._training(run, seeds=len(batch)) for run in self._runs.values() for batch in config.seed_batches
        ]
        return stages + self._evaluations()

    def _copying(self) -> Stage:
        """Of published weights to where training starts, one job each."""
        largest = max(self._student.size.parameters, self._teacher.size.parameters)
        return Stage("copy", "copy the models", 2, 0, 0, (8 * largest + HOST_OVERHEAD) / GB, _START_HOURS, 0)

    def _rates(self, size: ModelSize) -> Rates:
        careful, hopeful = sustained(size, self._hardware)
        return hopeful if self._at_best else careful

    def _running(
        self, kind: Kind, name: str, model: _Model, memory_gb: float, hours: float, prompts: int = _PROMPTS_TOGETHER
    ) -> Stage:
        """A job of one GPU that trains nothing, and holds both figures of some prompts in the machine's memory."""
        weights = model.size.parameters * weight_bytes(self._hardware)
        pixels = prompts * model.longest(self._config.evaluation.turn_tokens).patches * PIXEL_BYTES
        host = (weights + pixels + HOST_OVERHEAD) / GB
        return Stage(kind, name, 1, 1, memory_gb, host, hours + _START_HOURS, 0)

    def _training(self, run: _Run, model: _Model | None = None, seeds: int = 1) -> Stage:
        """One job; the student's where no model is given."""
        model = model or self._student
        settings = run.settings
        hardware = self._hardware.of_trials if run.kind == "tuning" else self._hardware
        typical, rates = model.typical(settings.turn_tokens), self._rates(model.size)
        step = step_seconds(model.size, hardware, rates, settings, typical, run.attribution, run.distillation)
        longest = model.longest(settings.turn_tokens, settings.max_completion_length)
        memory = training_memory(model.size, hardware, settings, longest, run.attribution, run.beside, run.distillation)
        host = host_memory(model.size, hardware, settings, longest) + run.beside * hardware.processes / GB
        hours = seeds * settings.steps * step / 3600 + _START_HOURS
        return Stage(run.kind, run.name, 1, hardware.processes, memory, host, hours, 0)

    def _choose_weight(self, run: _Run) -> Stage:
        trial, asked = self._training(run), self._answering_hours(self._dev, self._student, turns=2)
        answering = self._answering_memory(self._student, self._together(self._config.evaluation.batch_size))
        hours = len(self._config.tuning.factors) * (trial.hours + asked)
        # One after the other, each in a process of its own.
        asks = self._running("tuning", "", self._student, answering, asked, self._config.evaluation.batch_size)
        return replace(
            trial,
            name="choose weights",
            hours=hours,
            memory_gb=max(trial.memory_gb, asks.memory_gb),
            host_gb=max(trial.host_gb, asks.host_gb),
        )

    def _sample_student(self) -> Stage:
        sampled = self._prompts(self._config.train.prompts_per_set) * self._config.teacher.student_calls
        hours = self._sampling_hours(sampled, self._student, self._config.train.turn_tokens)
        memory = self._calling_memory(self._student, self._together(_PROMPTS_TOGETHER))
        return self._running("student_calls", "sample the student", self._student, memory, hours)

    def _cache_teacher(self) -> Stage:
        """The same jobs for each setting of the attribution that some method has, each with a part of the prompts."""
        config, teacher = self._config, self._teacher
        prompts = self._prompts(config.train.prompts_per_set)
        turn_tokens = config.teacher.train.turn_tokens
        hours = self._sampling_hours((1 + config.teacher.sampled_calls) * prompts, teacher, turn_tokens)
        hours += self._attributing_hours(teacher, config.teacher_attribution, prompts * distinct(config), prompts)
        caches = {run.cache for run in self._runs.values() if run.cache}
        # Its turns are written before they are attributed, by transformers some prompts together.
        longest = teacher.longest(config.evaluation.turn_tokens)
        first, second = longest.prompt, longest.sequence - longest.turn
        memory = max(
            self._attributing_memory(teacher),
            self._calling_memory(teacher, self._together(min(_PROMPTS_TOGETHER, max(1, _TOKENS_TOGETHER // first)))),
            self._answering_memory(teacher, self._together(min(_PROMPTS_TOGETHER, max(1, _TOKENS_TOGETHER // second)))),
        )
        parts = self._hardware.cache_jobs
        together = _PROMPTS_OF_ENGINE if config.evaluation.engine == "vllm" else _PROMPTS_TOGETHER
        job = self._running("cache", "cache the teacher's attribution", teacher, memory, hours / parts, together)
        return replace(job, jobs=len(caches) * parts)

    def _ask_teachers(self) -> Stage:
        config = self._config
        prompts = self._prompts(config.audit.prompts_per_set)
        calls = prompts * config.teacher.student_calls
        hours = self._attributing_hours(self._student, config.attribution, calls, prompts)
        hours += len(config.asked_teachers) * self._attributing_hours(
            self._teacher, config.teacher_attribution, calls, prompts
        )
        # One model after the other.
        memory = max(self._attributing_memory(model) for model in (self._student, self._teacher))
        return self._running("informative", "ask whether it is informative", self._teacher, memory, hours)

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
            memory = self._answering_memory(model, self._together(config.evaluation.batch_size))
            whose = "the teacher" if model is self._teacher else "the student"
            name = f"evaluate {'released weights' if model in self._released.values() else whose}"
            stages.append(self._running("evaluation", name, model, memory, hours, config.evaluation.batch_size))
        return stages

    def _prompts(self, per_set: int) -> float:
        """Training questions that are rolled out."""
        return sum(min(per_set, count) for count in self._train)

    def _sampling_hours(self, prompts: float, model: _Model, turn_tokens: int) -> float:
        """Of first turns."""
        by_vllm = self._config.evaluation.engine == "vllm"
        typical, rates, together = model.typical(turn_tokens), self._rates(model.size), _PROMPTS_TOGETHER
        return sampling_seconds(model.size, rates, prompts, typical, together=together, turns=1, by_vllm=by_vllm) / 3600

    def _answering_hours(self, counts: Sequence[float], model: _Model, turns: int) -> float:
        evaluation = self._config.evaluation
        by_vllm = evaluation.engine == "vllm"
        typical, together = model.typical(evaluation.turn_tokens), evaluation.batch_size
        rates, asked = self._rates(model.size), sum(counts)
        return (
            sampling_seconds(model.size, rates, asked, typical, together=together, turns=turns, by_vllm=by_vllm) / 3600
        )

    def _together(self, prompts: int) -> int:
        """Prompts whose memory is counted: vLLM takes what there is, and must have room for one."""
        return 1 if self._config.evaluation.engine == "vllm" else prompts

    def _answering_memory(self, model: _Model, together: int) -> float:
        """Of both turns with transformers."""
        longest = model.longest(self._config.evaluation.turn_tokens)
        return self._generating_memory(model, together, longest.sequence)

    def _calling_memory(self, model: _Model, together: int) -> float:
        """Of first turns with transformers."""
        return self._generating_memory(model, together, model.longest(self._config.evaluation.turn_tokens).attributed)

    def _generating_memory(self, model: _Model, together: int, tokens: int) -> float:
        peak = generation_bytes(model.size, self._hardware, together, tokens)
        return running_memory(model.size, self._hardware, peak)

    def _attributing_hours(self, model: _Model, config: AttributionConfig, calls: float, prompts: float) -> float:
        typical = model.typical(self._config.train.turn_tokens)
        flops = attribution_flops(model.size, config, calls, typical, prompts)
        return flops / (self._rates(model.size).tflops * 1e12) / 3600

    def _attributing_memory(self, model: _Model) -> float:
        config, precision = self._config.teacher_attribution, self._hardware.precision
        peak = attribution_bytes(model.size, config, model.longest(self._config.train.turn_tokens), precision)
        return running_memory(model.size, self._hardware, peak)

    def disk_bytes(self) -> float:
        """Downloads, the copies that training starts from, every saved policy, and the checkpoints of one training and
        policies of one method's trials: they are deleted once these are done."""
        config, rank = self._config, self._hardware.lora_rank
        policies = 1 + len(self._runs) * len(config.seeds) + (config.student.first_stage is not None)
        policies += len(config.tuning.factors) if self._trials else 0
        teachers = 1 + (len(config.asked_teachers) if config.teacher.trained else 0)
        published = {
            model.pretrained.source.repo: 2 * model.size.parameters
            for model in (self._student, self._teacher, *self._released.values())
        }
        largest = (self._teacher if config.teacher.trained else self._student).size
        checkpoint = _SAVED_BYTES * 3 * (largest.adapters(rank) if rank else largest.parameters)
        saved = policies * self._student.size.parameters + teachers * self._teacher.size.parameters
        return _DATA_BYTES + sum(published.values()) + _SAVED_BYTES * saved + _CHECKPOINTS * checkpoint


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
    return 1 + _enumerated(config) + teacher.sampled_calls + teacher.student_calls


def distinct(config: Config) -> float:
    """Calls that the cache is likely to attribute for a prompt: half of the sampled ones are another's equal."""
    return 1 + _enumerated(config) + (config.teacher.sampled_calls + config.teacher.student_calls) / 2


def _enumerated(config: Config) -> int:
    tools = len(tools_for("table"))
    return {"none": 0, "tools": tools, "labels": _LABELS, "all": tools + _LABELS}[config.teacher.enumerated]


def _alike_together(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Jobs that need the same, in one line."""
    jobs: dict[Stage, int] = {}
    for stage in stages:
        alike = replace(stage, jobs=0)
        jobs[alike] = jobs.get(alike, 0) + stage.jobs
    return tuple(replace(stage, jobs=count) for stage, count in jobs.items())
