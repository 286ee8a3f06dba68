"""The validated configuration, shared paths and what runs before the first job."""

import os
import sys
from dataclasses import asdict
from pathlib import Path

from baselines import METHODS
from iapo.config import ConfigError, load_config
from iapo.preflight import PreflightError, check_device, check_methods, claim_results
from iapo.provenance import code_hash
from iapo.types import TEST_SETS

try:
    CONFIG = load_config(config)
    check_methods(CONFIG, METHODS)
    check_device(CONFIG.device)
except (ConfigError, PreflightError) as error:
    sys.exit(f"error: {error}")

RESULTS = Path("results") / CONFIG.profile
REFERENCE_POLICIES = ["untrained", "teacher"]


wildcard_constraints:
    method="[a-z0-9_]+",
    policy="student|teacher",
    seed=r"\d+",
    split="train|dev|test",


onstart:
    claim_results(RESULTS)


def logs(name: str) -> str:
    """Where a rule logs."""
    return str(RESULTS / "logs" / f"{name}.log")


def evaluated_runs() -> list[tuple[str, int]]:
    """Every (method, seed) in the table; policies without a training run of their own count as seed 0."""
    trained = [(method, seed) for method in CONFIG.methods for seed in CONFIG.seeds]
    return [(policy, 0) for policy in REFERENCE_POLICIES] + trained


def policy_directory(method: str, seed: str) -> Path:
    """The pretrained directory of a row of the table."""
    if method == "untrained":
        return RESULTS / "models/student/cold"
    if method == "teacher":
        return RESULTS / "teacher/model"
    return RESULTS / f"train/{method}/seed{seed}/model"


TRAINING_CODE = code_hash(
    "baselines",
    "iapo.alignment",
    "iapo.answers",
    "iapo.attribution",
    "iapo.blocks",
    "iapo.env",
    "iapo.prompts",
    "iapo.rewards",
    "iapo.teacher_cache",
    "iapo.tools",
    "iapo.train",
    "iapo.trainer",
)


def teacher_cache(method: str) -> list[Path]:
    """The teacher's cache as an input, for methods that compare with the teacher."""
    uses_teacher = method in METHODS and METHODS[method].uses_teacher
    return [RESULTS / "teacher/cache/manifest.json"] if uses_teacher else []
