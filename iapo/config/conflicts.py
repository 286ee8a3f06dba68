"""Conflicts between settings: what no single field of a configuration can say about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from iapo.types import TEST_SETS

if TYPE_CHECKING:
    from iapo.config.schema import Config


def conflicts(config: Config) -> list[str]:
    """Return one line for each conflict: the key, what was found, what would be right."""
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
    real = [config.data.refocus, config.student.model.pretrained, config.teacher.model.pretrained]
    if any(real) and not all(real):
        problems.append(
            "data.refocus, student.model.pretrained, teacher.model.pretrained: found some and not all; the tiny "
            "models' vocabulary knows the mini world alone"
        )
    problems += _released_problems(config)
    attribution, alignment = config.attribution, config.alignment
    if attribution.method == "shapley" and attribution.blocks != "four_block":
        problems.append(f"attribution.method: found shapley with {attribution.blocks} blocks; it needs four_block")
    if alignment.aggregation == "l1" and not attribution.magnitudes:
        problems.append("alignment.aggregation: found l1 without attribution.magnitudes; set that to true")
    if alignment.loss_weight and attribution.method != "integrated_gradients":
        problems.append(f"alignment.loss_weight: found it with {attribution.method}; needs integrated_gradients")
    if config.hardware.processes > 1 and config.hardware.lora_rank and config.hardware.strategy != "ddp":
        problems.append(
            f"hardware.strategy: found {config.hardware.strategy} with adapters (lora_rank); attribution needs the "
            "weights whole there, so use ddp"
        )
    return problems


def _released_problems(config: Config) -> Iterator[str]:
    """Why rows of released weights cannot be evaluated as configured."""
    if config.released and not config.data.refocus:
        yield "released: found weights with the mini world; they know real figures alone, so set data.refocus"
    others = replace(config, released={}).reference_policies
    rows = {*config.methods, *config.all_variants, *others, "first_stage", "api"}
    for name in sorted(rows & set(config.released)):
        yield f"released.{name}: found the name of another row; choose one of its own"
