"""Every setting of a run, as frozen dataclasses; the config files and their JSON schema follow from here.

A profile (``config/*.yaml``) is one :class:`Config`. There is one code path: a profile changes values,
never the flow. This module imports no torch, so that Snakemake can plan without it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from iapo.types import TEST_SETS

_SETTINGS = ConfigDict(extra="forbid", use_attribute_docstrings=True)

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]

Baseline = Literal["pad_image_mean", "pad", "mean_embedding", "zero", "flat_image"]
"""Start of the path: pad embedding for text with the image's mean token; pad everywhere; the vocabulary's
mean with the image's mean token; zero everywhere; pad with the features of a grey image."""
Partition = Literal["prit", "items", "labels"]
"""Which tokens of a prompt are summed together."""


@dataclass(frozen=True, config=_SETTINGS)
class DataConfig:
    """The mini world: gapminder tables drawn as charts, tables and panels."""

    seed: int = 20260611
    """Seed of the splits and of the sampled figures."""
    train_per_set: Count = 1200
    """Questions per set for the cold starts; reinforcement learning uses the first few of them."""
    dev_per_set: Count = 40
    """Questions per set for choosing settings and checkpoints; never reported."""
    test_per_set: Count = 150
    """Questions per set behind every reported figure."""
    labels_per_figure: Annotated[int, Field(ge=2, le=8)] = 5
    """Rows, columns or bars in a figure; sub-figure sets always have four panels."""
    hint_rate: Rate | None = None
    """Shortcut world: the plain text names a label, the right one at this rate in training (else, and elsewhere,
    any label); null has no hints."""


@dataclass(frozen=True, config=_SETTINGS)
class ModelConfig:
    """A tiny Qwen2.5-VL, trained from scratch."""

    hidden_size: Count = 64
    """Width of the language model, channels; divisible by 4 heads and, per head, by 2."""
    num_layers: Count = 2
    """Decoder layers."""
    vision_hidden_size: Count = 32
    """Width of the patch embedding, channels."""
    vision_depth: Annotated[int, Field(ge=0)] = 0
    """Vision blocks; 0 keeps the patch embedding and the merger only, which reads printed cells."""
    initializer_range: Positive = 0.06
    """Standard deviation of the initial weights; tiny models need more than the usual 0.02."""


@dataclass(frozen=True, config=_SETTINGS)
class DemonstrationConfig:
    """How good the demonstrations of the cold start are. Imperfect on purpose: RL needs room.

    The faults must be systematic (the first label is named too often), since greedy decoding hides
    unbiased noise.
    """

    tool_rate: Rate = 0.85
    """Share of demonstrations that call a tool."""
    right_family_rate: Rate = 0.92
    """Of the calls: share whose tool fits the figure; the others fail and the answer is a guess."""
    right_label_rate: Rate = 0.25
    """Of the fitting calls: share that name the label asked for."""
    first_label_rate: Rate = 0.8
    """Of the wrongly labelled calls: share that name the first label listed; the rest are random."""
    mode_weights: tuple[float, float, float] = (0.2, 0.35, 0.45)
    """Relative frequency of mask, draw and highlight."""
    hint_rate: Rate = 0.0
    """Shortcut world: share whose hint names the label that is called, whatever is asked; else any label."""
    thought: bool = False
    """Whether a call follows a short thought that names its label and where it is from."""


@dataclass(frozen=True, config=_SETTINGS)
class ColdStartConfig:
    """Supervised stages that turn random weights into a policy that RL can improve."""

    glyph_steps: Count = 80
    """Steps that align the vision tower with single printed cells."""
    reading_steps: Count = 400
    """Steps on short sequences: read the only number left in the figure."""
    demonstration_steps: Count = 900
    """Steps on whole demonstrations with a tool turn."""
    batch_size: Count = 32
    """Demonstrations a step."""
    reading_batch_size: Count = 96
    """Reading sequences a step."""
    learning_rate: Positive = 3e-3
    """Peak AdamW learning rate."""
    seed: int = 0
    """Seed of the weights, the demonstrations and their order."""
    demonstrations: DemonstrationConfig = DemonstrationConfig()
    """Quality of the demonstrations."""


@dataclass(frozen=True, config=_SETTINGS)
class TrainConfig:
    """One GRPO run through TRL, the same for every method."""

    steps: Count = 60
    """Optimizer steps."""
    learning_rate: Positive = 5e-4
    """Constant after warm-up. 3e-3 collapses tiny models."""
    warmup_steps: Annotated[int, Field(ge=0)] = 3
    """Linear warm-up, steps."""
    groups_per_step: Count = 8
    """Prompts a step."""
    prompts_per_set: Count = 40
    """Training questions per set that are rolled out, the first of the train split."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts a prompt (G in GRPO)."""
    temperature: Positive = 1.0
    """Sampling temperature of the rollouts."""
    max_completion_length: Count = 48
    """Tokens of both turns and the tool's answer, image tokens included; checked against the data."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """TRL's loss aggregation."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the advantage is divided by."""
    outcome_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the outcome reward; 0 shows what a method's other rewards do alone."""
    kl_beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL to the starting policy."""
    save_every: Count = 10
    """Steps between resumable checkpoints."""


@dataclass(frozen=True, config=_SETTINGS)
class AttributionConfig:
    """Attribution of the tool call over the prompt's blocks. Defaults are the student's.

    Student and teacher must share everything but the points: the baseline moves the distribution more than any
    quadrature.
    """

    method: Literal["integrated_gradients", "shapley", "attention"] = "integrated_gradients"
    """shapley: exact over the four blocks by 16 forward passes, another quantity. attention: a control."""
    points: Count = 8
    """Points on the path from baseline to input."""
    quadrature: Literal["midpoint", "gauss_legendre"] = "midpoint"
    """Where the points lie. Midpoints are reused when a row is refined; Gauss–Legendre needs fewer of them."""
    tolerance: Positive = 0.15
    """Completeness error above which a row's points are tripled once, no unit."""
    baseline: Baseline = "pad_image_mean"
    """Text and image tokens at the path's start. zero is no baseline under RMSNorm: completeness fails."""
    blocks: Partition = "prit"
    """prit: four. items: every image and tool definition its own. labels: labels in text and image apart."""
    target: Literal["call", "turn"] = "call"
    """What is attributed: the tool calls with their tags, or all that the turn says."""
    tokens_per_forward: Count = 2048
    """Points × calls × length in one forward pass; bounds memory, never the result."""
    most_tokens: Count = 16384
    """Longest prompt and call; a longer one is left out, with its group, and counted. A forward pass holds at least
    one point of one prompt: 8,000 tokens took under 1 GB on mini's models."""


@dataclass(frozen=True, config=_SETTINGS)
class AlignmentConfig:
    """From two attributions to one penalty."""

    weight: Annotated[float, Field(ge=0)] = 0.5
    """Lambda: penalty subtracted from the outcome reward, reward units per unit divergence. Assumed."""
    weight_end: Annotated[float, Field(ge=0)] | None = None
    """Lambda at the last step, reached linearly; null keeps it constant."""
    divergence: Literal["js", "kl_student_teacher", "kl_teacher_student"] = "js"
    """js is divided by ln 2 and bounded by 1. The paper uses a KL whose direction is not public."""
    most: Positive | None = None
    """Larger divergences are cut to this; null leaves them."""
    smoothing: Positive = 1e-3
    """Mass added to every block before renormalising, no unit."""
    aggregation: Literal["signed", "l1", "length_normalised"] = "signed"
    """A block's magnitude: of its signed sum, the sum of magnitudes, or the signed sum per token."""
    reference: Literal["same_call", "teacher_call"] = "same_call"
    """The teacher's attribution of the student's call (the paper), or of the teacher's own first call."""
    contrastive: bool = False
    """Attribute a call minus the mean of its alternatives: the group's other calls, the cached other calls."""
    normalise: Literal["none", "batch"] = "none"
    """batch: the penalty enters as its z-score over the step's rollouts."""
    missing_call: Literal["group_mean", "bound"] = "group_mean"
    """Penalty of a rollout without a valid call: its group's mean, or the bound (1, or `most`)."""
    every_nth_group: Count = 1
    """Attribute every n-th group of a step; the others get no penalty."""
    loss_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the divergence as a differentiable loss beside the policy's, four points, a call a group."""
    teacher: Literal["cache", "shuffled", "uniform", "self"] = "cache"
    """Controls: another prompt's row, equal shares, the student's own shares (penalty 0)."""


@dataclass(frozen=True, config=_SETTINGS)
class TeacherConfig:
    """The stronger model whose attribution is cached once, offline."""

    model: ModelConfig = ModelConfig(hidden_size=96, num_layers=3)
    """Architecture."""
    cold_start: ColdStartConfig = ColdStartConfig()
    """Supervised stages."""
    train: TrainConfig = TrainConfig(steps=30)
    """GRPO on the outcome alone."""
    points: Count = 16
    """Points on the path; offline, so it can afford more than the student. All else is `attribution`'s."""
    sampled_calls: Count = 4
    """Calls sampled per prompt, besides the greedy one."""
    train_hint_rate: Rate = 0.0
    """Shortcut world: how often the hint is right while the teacher is trained by GRPO."""
    enumerated: Literal["none", "tools", "labels", "all"] = "tools"
    """Legal calls added to them: every tool with the greedy call's labels, its tool with every label, or both."""
    student_calls: Annotated[int, Field(ge=0)] = 8
    """Calls sampled per prompt from the cold-started student, whose distinct ones are added too."""
    train_seed: int = 0
    """Seed of the GRPO run whose teacher is cached, and of the sampled calls."""


@dataclass(frozen=True, config=_SETTINGS)
class StudentConfig:
    """The small policy that every method trains."""

    model: ModelConfig = ModelConfig()
    """Architecture."""
    cold_start: ColdStartConfig = ColdStartConfig()
    """Supervised stages."""


@dataclass(frozen=True, config=_SETTINGS)
class EvaluationConfig:
    """Greedy decoding through lmms-eval."""

    batch_size: Count = 128
    """Questions decoded together."""
    turn_tokens: Count = 24
    """Longest turn, tokens."""


@dataclass(frozen=True, config=_SETTINGS)
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


@dataclass(frozen=True, config=_SETTINGS)
class AuditConfig:
    """What is measured about the teacher and its cache besides the table."""

    prompts: Count = 64
    """Training prompts whose calls are audited."""
    rollouts: Annotated[int, Field(ge=2)] = 8
    """Calls sampled per prompt."""
    teacher_seeds: tuple[int, ...] = (0, 1, 2)
    """GRPO seeds of the teachers that are asked whether they are informative."""
    reference_points: Count = 256
    """Midpoints of the converged attribution that the cheap one is held against."""

    @property
    def prompts_per_set(self) -> int:
        """Enough of each set for ``prompts`` in all."""
        return -(-self.prompts // len(TEST_SETS))


@dataclass(frozen=True, config=_SETTINGS)
class Variant:
    """A method with settings of its own; trained and tabulated beside the methods."""

    method: str
    """Name of ``baselines.METHODS``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Overrides of `train`, `attribution` and `alignment`, nested as in a config file."""
    against: tuple[str, ...] = ()
    """Methods or variants that the mechanism study compares it with: its controls."""


@dataclass(frozen=True, config=_SETTINGS)
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
    seeds: tuple[int, ...] = (0, 1, 2)
    """One GRPO run per method and seed."""
    test_sets: tuple[str, ...] = TEST_SETS
    """Sets to evaluate on."""
    data: DataConfig = DataConfig()
    student: StudentConfig = StudentConfig()
    teacher: TeacherConfig = TeacherConfig()
    train: TrainConfig = TrainConfig()
    attribution: AttributionConfig = AttributionConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    audit: AuditConfig = AuditConfig()

    @property
    def asked_teachers(self) -> list[int]:
        """GRPO seeds of the teachers that are asked whether they are informative, the cached one among them."""
        return sorted({self.teacher.train_seed, *self.audit.teacher_seeds})

    @property
    def teacher_attribution(self) -> AttributionConfig:
        """The teacher's settings: the student's with the teacher's points, since all else must be shared."""
        return dataclasses.replace(self.attribution, points=self.teacher.points)


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
        config = _CONFIG.validate_python(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(detail) for detail in error.errors())) from None
    _check_together(config)
    return config


OVERRIDES = ("train", "attribution", "alignment")
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


def _problem(detail: ErrorDetails) -> str:
    *parents, last = detail["loc"]
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "unexpected_keyword_argument":
        valid = _keys_at(parents)
        near = difflib.get_close_matches(str(last), valid, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
        return f"{key}: unknown key; {hint} (config/README.md)"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{key}: found {detail['input']!r}; {message} (config/README.md)"


def _keys_at(path: Sequence[int | str]) -> list[str]:
    """The valid keys of the section at ``path``."""
    section: Any = Config
    for part in path:
        section = typing.get_type_hints(section)[str(part)]
    return [field.name for field in dataclasses.fields(section)]


def _check_together(config: Config) -> None:
    """What no single field can say."""
    problems = []
    for key, names in (("methods", config.methods), ("seeds", config.seeds)):
        if not names or len(set(names)) < len(names):
            problems.append(f"{key}: found {list(names)}; name at least one, each once")
    unknown = sorted(set(config.test_sets) - set(TEST_SETS))
    if unknown or not config.test_sets:
        problems.append(f"test_sets: found {unknown}; choose from {', '.join(TEST_SETS)}")
    for key, model in (
        ("student.model.hidden_size", config.student.model),
        ("teacher.model.hidden_size", config.teacher.model),
    ):
        if model.hidden_size % 8 or model.hidden_size < 24:
            problems.append(f"{key}: found {model.hidden_size}; use a multiple of 8, 24 or more")
    attribution, alignment = config.attribution, config.alignment
    if attribution.method == "shapley" and attribution.blocks != "prit":
        problems.append(f"attribution.method: found shapley with {attribution.blocks} blocks; it needs prit")
    if alignment.weight_end is not None and alignment.weight == 0:
        problems.append("alignment.weight: found 0 with weight_end set; start above 0")
    if alignment.loss_weight and attribution.method != "integrated_gradients":
        problems.append(f"alignment.loss_weight: found it with {attribution.method}; needs integrated_gradients")
    if problems:
        raise ConfigError("\n".join(f"{problem} (config/README.md)" for problem in problems))


def config_reference() -> str:
    """``config/README.md``: every key, its default and what it means, from the schema."""
    schema = config_schema()
    lines = [
        "# Configuration",
        "",
        "A profile is one YAML file. Any key can be left out for its default, or set on the command line:",
        "`snakemake --cores all results/table.csv --config seeds='[0]'`. Written by `make config`.",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
        *_reference_rows(schema, schema, ""),
    ]
    return "\n".join(lines) + "\n"


def _reference_rows(schema: Mapping[str, Any], section: Mapping[str, Any], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, entry in section["properties"].items():
        target = entry.get("$ref") or (entry.get("allOf") or [{}])[0].get("$ref")
        if target:
            rows += _reference_rows(schema, schema["$defs"][target.rpartition("/")[2]], f"{prefix}{name}.")
        else:
            default = f"`{json.dumps(entry['default'])}`" if "default" in entry else "–"
            rows.append(f"| `{prefix}{name}` | {default} | {entry.get('description', '')} |")
    return rows


if __name__ == "__main__":
    # Rewrites the documents that follow from the dataclasses; run from the project's root.
    Path("config/README.md").write_text(config_reference())
    Path("workflow/schemas").mkdir(exist_ok=True)
    Path("workflow/schemas/config.schema.json").write_text(json.dumps(config_schema(), indent=1) + "\n")
