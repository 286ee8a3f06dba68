"""Run lmms-eval on one model, a saved policy or one behind an API, and keep every item's record."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

TASKS = Path(__file__).parent / "tasks"


class ChatTasks(TaskManager):
    """Loads tasks for chat models; lmms-eval's own does so by a task's name, not where its data are given with it."""

    def load_config(self, config: dict[str, Any]) -> Any:
        """The task of a name and some settings."""
        return self._load_individual_task_or_group(config, task_type="chat")


def task_name(test_set: str) -> str:
    """lmms-eval's name of a test set; the prefix keeps clear of its built-in tasks."""
    return f"iapo_{test_set}"


def evaluate(agent: lmms, examples_of: dict[str, Path], *, method: str, seed: int) -> list[dict[str, Any]]:
    """Score one model on some sets.

    Args:
        agent: the lmms-eval model, e.g. :class:`benchmarks.agent.FigureAgent` or :class:`benchmarks.api.ApiModel`.
        examples_of: test set → its parquet file.
        method: goes into the records.
        seed: of the policy's training run; goes into the records.

    Returns:
        One record an item, in the order of the files; columns as in :mod:`benchmarks.records`.
    """
    tasks = [_task(test_set, path) for test_set, path in examples_of.items()]
    results = simple_evaluate(
        model=agent,
        tasks=tasks,
        task_manager=ChatTasks(include_path=str(TASKS), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        process_docs_parallel=1,
        # What the command line passes; without it the two would strip reasoning differently.
        cli_args=Namespace(process_with_media=False, reasoning_tags=None),
    )
    return [
        {"method": method, "seed": seed, "test_set": test_set, **sample["accuracy"]}
        for test_set in examples_of
        for sample in results["samples"][task_name(test_set)]
    ]


def _task(test_set: str, path: Path) -> dict[str, Any]:
    return {
        "task": task_name(test_set),
        "dataset_kwargs": {"data_files": {"test": str(path.resolve())}},
    }
