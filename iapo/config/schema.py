"""Every setting of a run, as frozen dataclasses; the config files and their JSON schema follow from here.

A profile (``config/*.yaml``) is one :class:`Config`. There is one code path: a profile changes values,
never the flow. This module imports no torch, so that Snakemake can plan without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from iapo.config.conflicts import conflicts
from iapo.config.method import AlignmentConfig, AttributionConfig, RewardsConfig, TrainConfig, VerifierConfig
from iapo.config.mini_world import DataConfig
from iapo.config.policies import StudentConfig, TeacherConfig
from iapo.config.problems import problem
from iapo.config.sources import (
    RERUNS_NOTHING,
    SETTINGS,
    Count,
    EngineName,
    HardwareConfig,
    HubConfig,
    Positive,
    PretrainedConfig,
    Rate,
    ReleasedConfig,
    RepositoryConfig,
    RowName,
)
from iapo.config.variants import AblationConfig as AblationConfig
from iapo.config.variants import GridConfig, ablation_name, grid_seeds, grid_variants, nested
from iapo.config.variants import Variant as Variant
from iapo.types import TEST_SETS


@dataclass(frozen=True, config=SETTINGS)
class TuningConfig:
    """How each method's weight is chosen: the same few trial runs a method, scored on the dev split."""

    factors: tuple[Positive, ...] = (0.25, 1.0, 4.0)
    """What the configured weight is multiplied by, one trial each; a single factor skips the trials."""
    steps: Count = 30
    """Optimizer steps of a trial."""
    seed: int = 1000
    """Seed of the trials, none of the table's."""


@dataclass(frozen=True, config=SETTINGS)
class MonitorConfig:
    """When a run is flagged, in its log while it trains and in the table."""

    window: Count = 10
    """Steps that are averaged; the first such window is what later ones are held against."""
    min_calls: Rate = 0.5
    """Tool use collapses below this share of its first window's rate."""
    outcome_drop: Rate = 0.05
    """Reward without accuracy: the reward rose while the outcome fell by this much."""
    max_truncated: Rate = 0.2
    """Completions cut off at the length limit."""
    max_flat_groups: Rate = 0.8
    """Groups without any difference, from which nothing is learned."""
    max_verifier_failures: Rate = 0.02
    """Tool uses on which the verifier gave no verdict."""


@dataclass(frozen=True, config=SETTINGS)
class EvaluationConfig:
    """Greedy decoding through lmms-eval."""

    batch_size: Count = 128
    """Questions decoded together; vLLM wants some hundreds."""
    engine: EngineName = "transformers"
    """What answers, and what samples the student's calls: transformers, or vLLM, several times as fast on a GPU."""
    turn_tokens: Count = 24
    """Longest turn, tokens."""
    image_help: bool = True
    """Whether every question is also answered without tools and with the original in the edited image's place."""
    api_model: str | None = None
    """Also evaluate this model by an OpenAI-compatible API (`OPENAI_API_KEY`, `OPENAI_API_BASE`), as the row `api`."""
    api_tokens: Count = 1024
    """Longest reply of ``api_model``, tokens, thinking included."""


@dataclass(frozen=True, config=SETTINGS)
class StatisticsConfig:
    """Intervals and comparisons."""

    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Confidence level of every interval."""
    bootstrap_draws: Count = 4000
    """Resamples behind each paired difference."""
    seed: int = 7
    """Seed of the bootstrap."""
    reference_method: str = "vtool_r1"
    """The method that the differences are taken against."""
    oracle: str = "exact_match"
    """A method that knows the right call. It must be found better than ``reference_method``, or the run cannot tell."""
    primary: tuple[tuple[str, str], ...] = (("iapo", "vtool_r1"), ("iapo", "iapo_shuffled"))
    """Comparisons declared beforehand, method and baseline, tested in this order after the oracle's; one whose methods
    are not in the run is left out."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Largest difference of the average accuracy that does not matter: two methods are equivalent within it."""
    target_accuracy: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Dev accuracy for which the dynamics table says after how many steps each run had it."""
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    """Chance at which the smallest difference that a run could have found is stated."""


@dataclass(frozen=True, config=SETTINGS)
class AuditConfig:
    """What is measured about the teacher and its cache besides the table."""

    prompts: Count = 64
    """Training prompts whose calls are audited."""
    rollouts: Annotated[int, Field(ge=2)] = 8
    """Calls sampled per prompt."""
    teacher_seeds: tuple[int, ...] = (0, 1, 2)
    """GRPO seeds of the teachers that are asked whether they are informative."""
    reference_steps: Count = 256
    """Midpoints of the converged attribution that the cheap one is held against."""

    @property
    def prompts_per_set(self) -> int:
        """Enough of each set for ``prompts`` in all."""
        return -(-self.prompts // len(TEST_SETS))


@dataclass(frozen=True, config=SETTINGS)
class Config:
    """A whole run."""

    profile: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the run; everything is written below ``results/<profile>/``."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run. ``cuda`` is checked before any job starts."""
    methods: tuple[str, ...] = ("vtool_r1", "iapo")
    """Methods to train: names of ``baselines.METHODS`` or of `variants`."""
    variants: dict[str, Variant] = field(default_factory=dict)
    """Name → method and the settings that it is trained with."""
    grids: dict[RowName, GridConfig] = field(default_factory=dict)
    """Name → methods × settings × starts, each a variant `<method>_<setting>_<start>` and one of the methods."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One GRPO run per method and seed."""
    seeds_per_job: Annotated[Count, RERUNS_NOTHING] = 1
    """Seeds of a method that one job trains, and one evaluates: several save the seconds that a process needs to
    start, one spreads over more GPUs."""
    test_sets: tuple[str, ...] = TEST_SETS
    """Sets to evaluate on."""
    hub: Annotated[HubConfig, RERUNS_NOTHING] = HubConfig()
    hardware: HardwareConfig = HardwareConfig()
    data: DataConfig = DataConfig()
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()
    attribution: AttributionConfig = AttributionConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    released: dict[RowName, ReleasedConfig] = field(default_factory=dict)
    """Row of the table → published weights that are evaluated under their own prompt and not trained here: `model`
    (`source`, `min_pixels`, `max_pixels`) and `prompt` (`address`, `sha256`). null leaves out a row of another file."""
    statistics: StatisticsConfig = StatisticsConfig()
    audit: AuditConfig = AuditConfig()
    rewards: RewardsConfig = RewardsConfig()
    verifier: VerifierConfig = VerifierConfig()
    tuning: TuningConfig = TuningConfig()
    monitors: Annotated[MonitorConfig, RERUNS_NOTHING] = MonitorConfig()
    ablations: AblationConfig = AblationConfig()

    @property
    def sources(self) -> dict[str, RepositoryConfig]:
        """Repository → what is downloaded of it."""
        sources = [each.source for each in self.pretrained_models]
        if self.data.refocus:
            sources.insert(0, self.data.refocus.source)
        return {source.repo: source for source in sources}

    @property
    def pretrained_models(self) -> list[PretrainedConfig]:
        """The models that are downloaded: student, teacher, released weights."""
        models = [self.student.model.pretrained, self.teacher.model.pretrained]
        models += [each.model for each in self.released.values()]
        return [each for each in models if each]

    @property
    def seed_batches(self) -> list[tuple[int, ...]]:
        """The seeds job by job."""
        return self.batches(self.seeds)

    def batches(self, seeds: Sequence[int]) -> list[tuple[int, ...]]:
        """Some seeds, or the starts that stand for seeds, job by job."""
        size = self.seeds_per_job
        return [tuple(seeds[first : first + size]) for first in range(0, len(seeds), size)]

    @property
    def reference_policies(self) -> tuple[str, ...]:
        """Rows of the table that no method trains: starting points, the trained teacher, released weights, an API."""
        return (
            "untrained",
            *(f"untrained_{habit}" for habit in self.habits_used),
            *(["first_stage"] if self.student.first_stage else []),
            *self._teacher_rows,
            *self.released,
            *(["api"] if self.evaluation.api_model else []),
        )

    @property
    def _teacher_rows(self) -> tuple[str, ...]:
        return ("teacher_untrained", "teacher") if self.teacher.trained else ("teacher",)

    @property
    def start_policy(self) -> str:
        """The row of the policy that every method starts from."""
        return "first_stage" if self.student.first_stage else "untrained"

    @property
    def start_rows(self) -> dict[str, str]:
        """Method of the run → row of the policies that it trains from."""
        habits = {name: variant.start for name, variant in self.variants.items() if variant.start}
        return {name: f"untrained_{habits[name]}" if name in habits else self.start_policy for name in self.methods}

    @property
    def trained_runs(self) -> list[tuple[str, int]]:
        """Every (method, seed) that is trained for the table."""
        counts = grid_seeds(self.grids)
        return [(method, seed) for method in self.methods for seed in self.seeds[: counts.get(method)]]

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """The seeds that train a method: all, or as many as its grids ask for."""
        return self.seeds[: grid_seeds(self.grids).get(method)]

    @property
    def evaluated_runs(self) -> list[tuple[str, int]]:
        """Every (method, seed) in the table; of rows that no method trains, the number of the start is the seed."""
        starts = self.reference_starts
        return [*((row, number) for row in self.reference_policies for number in starts[row]), *self.trained_runs]

    @property
    def start_of(self) -> dict[int, int]:
        """Seed → number of the student's cold start that its policies are trained from."""
        return {seed: i % self.student.cold_starts for i, seed in enumerate(self.seeds)}

    @property
    def teacher_of(self) -> dict[int, int]:
        """Seed → number of the teacher that its policies are compared with."""
        return {seed: i % self.teacher.cold_starts for i, seed in enumerate(self.seeds)}

    @property
    def starts_beside(self) -> dict[str, dict[int, int]]:
        """Row that no method trains → seed → number of the start whose records belong beside that seed's policies.

        Weights or a model from elsewhere have one.
        """
        of_seed = dict.fromkeys(self.reference_policies, self.start_of)
        of_seed |= dict.fromkeys(self._teacher_rows, self.teacher_of)
        only = dict.fromkeys(self.seeds, 0)
        return of_seed | {row: only for row in (*self.released, "api") if row in of_seed}

    @property
    def reference_starts(self) -> dict[str, list[int]]:
        """Row that no method trains → numbers of its starts."""
        return {row: sorted(set(of_seed.values())) for row, of_seed in self.starts_beside.items()}

    @property
    def habits_used(self) -> list[str]:
        """The habits that some method of the run starts with, in the methods' order."""
        starts = [self.variants[name].start for name in self.methods if name in self.variants]
        return [habit for habit in dict.fromkeys(starts) if habit]

    @property
    def ablation_runs(self) -> list[tuple[str, int]]:
        """Every (method, seed) in the table of the ablations."""
        return [(method, seed) for method in (self.ablations.method, *self.ablated) for seed in self.seeds]

    @property
    def ablated(self) -> dict[str, tuple[str, Any]]:
        """Name → key and value of each variant of the ablation grid."""
        return {
            ablation_name(key, value): (key, value) for key, values in self.ablations.grid.items() for value in values
        }

    @property
    def all_variants(self) -> dict[str, Variant]:
        """The configured variants and those of the ablation grid, by name."""
        ablated = {name: Variant(self.ablations.method, nested(*setting)) for name, setting in self.ablated.items()}
        return ablated | self.variants

    @property
    def cached_teachers(self) -> dict[int, int]:
        """GRPO seed of each teacher that has a cache → its number, which is that of its cold start."""
        return {self.teacher.train_seed + number: number for number in sorted(set(self.teacher_of.values()))}

    @property
    def asked_teachers(self) -> dict[int, int]:
        """GRPO seed of each teacher that is asked whether it is informative → number of its cold start.

        Where there is one cold start that is trained, `audit.teacher_seeds` are asked beside the one that has a cache.
        """
        more = self.audit.teacher_seeds if self.teacher.trained and self.teacher.cold_starts == 1 else ()
        return dict(sorted((dict.fromkeys(more, 0) | self.cached_teachers).items()))

    @property
    def teacher_attribution(self) -> AttributionConfig:
        """The teacher's settings: the student's with the teacher's points, since all else must be shared."""
        return dataclasses.replace(self.attribution, n_steps=self.teacher.n_steps)


class ConfigError(ValueError):
    """One line per problem: the key, what was found, what would be right."""


_CONFIG: TypeAdapter[Config] = TypeAdapter(Config)


def load_config(raw: Mapping[str, Any]) -> Config:
    """The configuration of a run from the merged config files and command-line values.

    Args:
        raw: as Snakemake gives it.

    Raises:
        ConfigError: naming every unknown key with the nearest valid one, and every wrong value.
    """
    try:
        config = _CONFIG.validate_python(_without_null_rows(raw))
    except ValidationError as error:
        raise ConfigError("\n".join(problem(detail, Config) for detail in error.errors())) from None
    if config.grids:
        from_grids = grid_variants(config.grids)
        methods = tuple(dict.fromkeys([*config.methods, *from_grids]))
        config = dataclasses.replace(config, methods=methods, variants=from_grids | config.variants)
    problems = conflicts(config)
    if problems:
        raise ConfigError("\n".join(f"{problem} (config/README.md)" for problem in problems))
    return config


def _without_null_rows(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a later file set to null: laid over each other, files can add rows and not take one away."""
    released = raw.get("released")
    if not isinstance(released, Mapping):
        return dict(raw)
    return {**raw, "released": {name: row for name, row in released.items() if row is not None}}


OVERRIDES = ("train", "attribution", "alignment", "rewards")
"""Sections that a method or a variant may change; the rest is the ground that all methods share."""


def with_overrides(config: Config, settings: Mapping[str, Any], whose: str) -> Config:
    """A configuration with some settings of a method or variant in place.

    Args:
        config: of the run.
        settings: nested as in a config file.
        whose: name of the method or variant, for errors.

    Raises:
        ConfigError: for a section that all methods share, an unknown key or a wrong value.
    """
    shared = sorted(set(settings) - set(OVERRIDES))
    if shared:
        raise ConfigError(f"{whose}: found settings for {', '.join(shared)}; only {', '.join(OVERRIDES)} can differ")
    raw = dataclasses.asdict(config)
    for section, values in settings.items():
        raw[section] |= values
    try:
        return load_config(raw)
    except ConfigError as error:
        raise ConfigError(f"{whose}: {error}") from None


def config_schema() -> dict[str, Any]:
    """The JSON schema of a config file; unknown keys are not allowed anywhere."""
    return _CONFIG.json_schema()
