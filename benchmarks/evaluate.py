"""Evaluation of one model with lmms-eval, keeping a record of every item.

The model is a saved policy or one behind an API; lmms-eval loads the tasks in ``benchmarks/tasks`` and calls the
scorer.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any, cast

from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from benchmarks.records import ItemRecord

TASKS = Path(__file__).parent / "tasks"


class ChatTasks(TaskManager):
    """A task manager that loads every task as a chat task.

    lmms-eval's own does so only for tasks given by name, not for configurations with data files.
    """

    def load_config(self, config: dict[str, Any]) -> Any:
        """Return the task of a configuration: its name and the settings that override those of its file."""
        return self._load_individual_task_or_group(config, task_type="chat")


def task_name(test_set: str) -> str:
    """Return the lmms-eval task of a test set; the prefix avoids the names of built-in tasks."""
    return f"iapo_{test_set}"


def evaluate(agent: lmms, examples_of: dict[str, Path], *, method: str, seed: int) -> list[ItemRecord]:
    """Evaluate one model on one or more test sets.

    Args:
        agent: the lmms-eval model, e.g. :class:`benchmarks.agent.FigureAgent` or :class:`benchmarks.api.ApiModel`.
        examples_of: test set → parquet file of its examples.
        method: name of the method, stored in the records.
        seed: seed of the policy's training run, stored in the records.

    Returns:
        One record per item, in the order of the files.
    """
    # Datasets reads a copy of its own of each file. One that stays from job to job is never checked again, and could be
    # damaged; below HOME they would pile up.
    with tempfile.TemporaryDirectory() as copies:
        results = simple_evaluate(
            model=agent,
            tasks=[_task(test_set, path, Path(copies)) for test_set, path in examples_of.items()],
            task_manager=ChatTasks(include_path=str(TASKS), include_defaults=False),
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
            # As on lmms-eval's command line; otherwise the two would strip reasoning from answers differently.
            cli_args=Namespace(process_with_media=False, reasoning_tags=None),
        )
    return [
        cast(ItemRecord, {"method": method, "seed": seed, "test_set": test_set, **sample["accuracy"]})
        for test_set in examples_of
        for sample in results["samples"][task_name(test_set)]
    ]


def _task(test_set: str, path: Path, copies: Path) -> dict[str, Any]:
    files = {"test": str(path.resolve())}
    return {"task": task_name(test_set), "dataset_kwargs": {"data_files": files, "cache_dir": str(copies)}}
