"""Conflicts between settings: what no single field of a configuration can say about itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from iapo.config.variants import grid_variants
from iapo.types import TEST_SETS

if TYPE_CHECKING:
    from iapo.config.schema import Config

_OTHER_ROWS = ("untrained", "first_stage", "teacher_untrained", "teacher", "api", "cold")


def conflicts(config: Config) -> list[str]:
    """Return one line for each conflict: the key, what was found, what would be right."""
    problems = []
    for key, names in (("methods", config.methods), ("seeds", config.seeds)):
        if not names or len(set(names)) < len(names):
            problems.append(f"{key}: found {list(names)}; name at least one, each once")
    for key, sets in (
        ("test_sets", config.test_sets),
        ("train.sets", config.train.sets),
        ("teacher.train.sets", config.teacher.train.sets),
    ):
        if not sets or set(sets) - set(TEST_SETS):
            problems.append(f"{key}: found {list(sets)}; choose one or more of {', '.join(TEST_SETS)}")
    for key, model in (
        ("student.model.hidden_size", config.student.model),
        ("teacher.model.hidden_size", config.teacher.model),
    ):
        if model.hidden_size % 8 or model.hidden_size < 24:
            problems.append(f"{key}: found {model.hidden_size}; use a multiple of 8, 24 or more")
    real = [config.data.refocus, config.student.model.pretrained, config.teacher.model.pretrained]
    if any(real) and not all(real):
        problems.append(
            "data.refocus, student.model.pretrained, teacher.model.pretrained: found some and not all; the tiny "
            "models' vocabulary knows the mini world alone"
        )
    problems += _released_problems(config)
    problems += _start_problems(config)
    problems += _grid_problems(config)
    problems += _tracker_problems(config)
    attribution, alignment = config.attribution, config.alignment
    if attribution.method == "shapley" and attribution.blocks != "four_block":
        problems.append(f"attribution.method: found shapley with {attribution.blocks} blocks; it needs four_block")
    if alignment.aggregation == "l1" and not attribution.magnitudes:
        problems.append("alignment.aggregation: found l1 without attribution.magnitudes; set that to true")
    if alignment.loss_weight:
        problems += _loss_problems(config)
    if alignment.normalise == "batch" and config.hardware.processes > 1:
        problems.append(
            f"alignment.normalise: found batch with {config.hardware.processes} processes, each of which would take "
            "its own part of the step for the whole; use none, or hardware.processes: 1"
        )
    if alignment.teacher == "shuffled" and alignment.reference == "teacher_call":
        problems.append(
            "alignment.teacher: found shuffled with reference teacher_call, which compares every call with one row; "
            "use same_call"
        )
    sharded = _is_sharded(config)
    stages = {
        "train": config.train,
        "teacher.train": config.teacher.train,
        "student.first_stage": config.student.first_stage,
    }
    for key, run in ((key, stage) for key, stage in stages.items() if stage):
        if run.average_last > run.steps:
            problems.append(
                f"{key}.average_last: found {run.average_last} of {run.steps} steps; use at most {run.steps}"
            )
        if run.reward_aggregation == "normalize_then_sum" and run.scale_rewards != "group":
            problems.append(
                f"{key}.scale_rewards: found {run.scale_rewards} with normalize_then_sum, which scales per group and "
                "then over the step; leave it at group"
            )
        if run.top_p < 1 and run.rollouts != "transformers":
            problems.append(
                f"{key}.top_p: found {run.top_p} with vLLM, whose log-probabilities are then the nucleus's: TRL would "
                "weigh long turns down for it; use 1.0"
            )
        if run.average_last and sharded:
            problems.append(f"{key}.average_last: found {run.average_last} with shards (fsdp2); use ddp or zero2, or 0")
    if config.hardware.processes > 1 and config.hardware.lora_rank and config.hardware.strategy != "ddp":
        problems.append(
            f"hardware.strategy: found {config.hardware.strategy} with adapters (lora_rank); attribution needs the "
            "weights whole there, so use ddp"
        )
    return problems


def _is_sharded(config: Config) -> bool:
    return config.hardware.processes > 1 and config.hardware.strategy == "fsdp2"


def _loss_problems(config: Config) -> Iterator[str]:
    """Why the differentiable loss, which compares signed sums of cached calls, does not go with other settings."""
    attribution, alignment = config.attribution, config.alignment
    key = "alignment.loss_weight"
    if attribution.method != "integrated_gradients":
        yield f"{key}: found it with {attribution.method}; needs integrated_gradients"
    if alignment.aggregation != "signed":
        yield f"{key}: found it with alignment.aggregation {alignment.aggregation}; it compares signed sums: use signed"
    if alignment.contrastive:
        yield f"{key}: found it with alignment.contrastive; it compares calls as they are, so use false"
    if alignment.teacher in ("uniform", "self"):
        yield f"{key}: found it with alignment.teacher {alignment.teacher}; it compares with cached rows: use cache"
    if _is_sharded(config):
        yield f"{key}: found it with shards (fsdp2), where processes take unequal numbers of passes; use ddp"


def is_other_row(name: str) -> bool:
    """Whether some run has a row or a start of this name that no method trains, so that no method may have it."""
    return name in _OTHER_ROWS or name.startswith("untrained_")


def _released_problems(config: Config) -> Iterator[str]:
    """Why rows of released weights cannot be evaluated as configured."""
    if config.released and not config.data.refocus:
        yield "released: found weights with the mini world; they know real figures alone, so set data.refocus"
    trained = {*config.methods, *config.all_variants}
    for name in sorted(name for name in config.released if name in trained or is_other_row(name)):
        yield f"released.{name}: found the name of another row; choose one of its own"


def _start_problems(config: Config) -> Iterator[str]:
    """Why policies cannot start as configured."""
    student, teacher = config.student, config.teacher
    if student.cold_starts % teacher.cold_starts:
        yield (
            f"teacher.cold_starts: found {teacher.cold_starts} for {student.cold_starts} of the student; choose a "
            "divisor, so that each cold start has one teacher"
        )
    for key, policy in (("student", student), ("teacher", teacher)):
        if policy.model.pretrained and policy.cold_starts > 1:
            yield f"{key}.cold_starts: found {policy.cold_starts} with a pretrained model, which has one start; use 1"
    if not teacher.trained and not teacher.model.pretrained:
        yield "teacher.trained: found false with a tiny model, which knows nothing yet; only pretrained ones go without"
    if student.habits and (student.model.pretrained or student.first_stage):
        yield "student.habits: found them with a pretrained model or a first stage; only tiny cold starts learn them"
    for name in sorted({"cold", "first_stage"} & set(student.habits)):
        yield f"student.habits.{name}: found the name of a start that exists; choose another"
    for name, variant in config.variants.items():
        if variant.start is not None and variant.start not in student.habits:
            known = ", ".join(student.habits) or "none"
            yield f"variants.{name}.start: found {variant.start!r}; student.habits has {known}"


def _grid_problems(config: Config) -> Iterator[str]:
    """Why the combinations of the grids cannot be told apart."""
    settings: dict[str, object] = {}
    for grid_name, grid in config.grids.items():
        for name, overrides in grid.settings.items():
            if settings.setdefault(name, overrides) != overrides:
                yield f"grids.{grid_name}.settings.{name}: found other overrides than another grid's; rename one"
    for name, variant in grid_variants(config.grids).items():
        if config.variants[name] != variant:
            yield f"variants.{name}: found the name of a grid's combination; choose another"


def _tracker_problems(config: Config) -> Iterator[str]:
    """Where a tracker is named that no run would ask: one is named for all."""
    stage = config.student.first_stage
    named: dict[str, object] = {
        "teacher.train": config.teacher.train.report_to,
        "student.first_stage": stage and stage.report_to,
    }
    for name, variant in config.all_variants.items():
        named[f"variants.{name}.settings.train"] = variant.settings.get("train", {}).get("report_to")
    for key, tracker in named.items():
        if tracker:
            yield f"{key}.report_to: found {tracker!r}; train.report_to names the tracker of every training of the run"
