"""Before training with a new reward: what would it do where right calls are rare?

``python -m baselines.try_reward iapo`` prints it. At each start of ``config/sparse.yaml`` the cold student is rolled
out on training prompts by the method's own trainer, whose learning rate is too small to change a weight, and the
method's rewards are looked at.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from baselines import METHODS
from iapo.alignment.informativeness import informativeness
from iapo.config.method_registry import Method, RewardTerm, resolve
from iapo.config.schema import Config, ConfigError
from iapo.data.store import read_split
from iapo.jobs.estimate import read_config
from iapo.jobs.preflight import PreflightError, check_methods
from iapo.rewards.outcome import outcome_reward
from iapo.rewards.tool_use import wrong_call_penalty
from iapo.types import Example

_BASE = Path("config/mini.yaml")
"""What every profile is laid over, as the workflow does it."""

_NO_CHANGE = 1e-30
"""Learning rate that leaves every float32 weight as it is."""

Row = dict[str, str]


class NotBuiltError(RuntimeError):
    """A file that a trial needs has not been made; the message names the command that makes it."""


@dataclass
class Recorder:
    """What the terms of a reward said of each rollout, and whether its call was right."""

    values: dict[str, list[float | None]] = field(default_factory=dict)
    """Name of a term → its values [N]."""
    right: dict[str, list[bool]] = field(default_factory=dict)
    """Name of a term → whether each rollout's first call names the annotated labels [N]."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Name of a term → each rollout's prompt [N]."""

    def listen(self, method: Method) -> Method:
        """Return the method with terms that report here what they return."""
        return replace(method, rewards=lambda config: [self._heard(term) for term in method.rewards(config)])

    def _heard(self, term: RewardTerm) -> RewardTerm:
        function: Callable[..., Sequence[float | None]] = term.function

        @functools.wraps(function)
        def heard(completions: Sequence[Any], **columns: Any) -> Sequence[float | None]:
            values = function(completions=completions, **columns)
            name = heard.__name__
            penalties = wrong_call_penalty(completions, columns["focus_labels"], columns["call_status"])
            self.values.setdefault(name, []).extend(values)
            self.right.setdefault(name, []).extend(penalty == 0 for penalty in penalties)
            self.groups.setdefault(name, []).extend(columns["example_id"])
            return values

        return replace(term, function=heard)

    def auc(self, name: str) -> float:
        """Return the share of a group's (right, wrong) pairs in which a term pays the right call more, or nan."""
        rows = zip(self.values[name], self.right[name], self.groups[name], strict=True)
        known = [(-value, right, group) for value, right, group in rows if value is not None and math.isfinite(value)]
        penalties, right, groups = map(list, zip(*known, strict=True)) if known else ([], [], [])
        return informativeness(penalties, right, groups).auc


def try_reward(name: str, config: Config, results: Path, prompts_per_set: int) -> list[Row]:
    """Return what a method's reward does at each start, one row per start and term, for readers.

    Args:
        name: of a method or of a variant.
        config: of the study of sparsity.
        results: ``results/<profile>`` of that study.
        prompts_per_set: training prompts of each set that are rolled out.

    Raises:
        ConfigError: if the method cannot be trained under these settings.
        KeyError: for an unknown method.
        NotBuiltError: if a start, the data or the teacher has not been made.
    """
    method, resolved = resolve(name, config, METHODS)
    teacher = _teacher(method, resolved, results)
    starts = {start: _start_files(results, start) for start in config.habits_used}
    _check_built([*teacher.values(), *(path for paths in starts.values() for path in paths)])
    examples = read_split(results / "data", "train", resolved.train.sets)
    gains = oracle_shares(results, method.name)
    rows = []
    for start, (weights, rates) in starts.items():
        recorder = Recorder()
        sources = {name: _folder(path) for name, path in teacher.items()}
        heard = recorder.listen(method)
        metrics = _roll_out(heard, resolved, examples, weights.parent, sources, prompts_per_set)
        rows += _rows(start, json.loads(rates.read_text()), recorder, metrics, gains.get(start, "–"))
    return rows


def _roll_out(
    method: Method,
    config: Config,
    examples: Sequence[Example],
    start: Path,
    teacher: Mapping[str, Path],
    prompts_per_set: int,
) -> list[dict[str, float]]:
    """Let the method's trainer roll out every prompt once, and return the metrics of its steps."""
    from iapo.data.selection import training_prompts
    from iapo.training.run import train
    from iapo.training.trainer import Sources

    prompts = len(training_prompts(examples, prompts_per_set))
    settings = replace(
        config.train,
        steps=max(1, prompts // config.train.groups_per_step),
        prompts_per_set=prompts_per_set,
        learning_rate=_NO_CHANGE,
        dev_every=0,
        average_last=0,
        save_every=10**6,
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return train(
            method,
            # Of two stages the one that the penalty counts in: its steps here are fewer than those of the first.
            replace(config, train=settings, alignment=replace(config.alignment, from_step=0)),
            examples,
            start=start,
            run_dir=folder / "work",
            output=folder / "model",
            seed=config.seeds[0],
            sources=Sources(**teacher, replies=folder / "replies"),
        )


def _rows(
    start: str, rates: Mapping[str, Any], recorder: Recorder, metrics: Iterable[Mapping[str, float]], gain: str
) -> list[Row]:
    steps = list(metrics)

    def mean(metric: str) -> str:
        found = [step[metric] for step in steps if metric in step]
        return f"{fmean(found):.0%}" if found else "–"

    terms = [name for name in recorder.values if name != outcome_reward.__name__] or [outcome_reward.__name__]
    return [
        {
            "start": start,
            "right calls": f"{rates['right_rate']:.1%}",
            "flat outcomes": mean("advantage/flat_outcomes"),
            "flat groups": mean("advantage/flat_groups"),
            "term": term,
            "share": mean(f"advantage/{term}_share"),
            "alone": mean(f"advantage/{term}_alone"),
            "AUC": "–" if math.isnan(auc := recorder.auc(term)) else f"{auc:.2f}",
            "share of the oracle's gain": gain,
        }
        for term in terms
    ]


def oracle_shares(results: Path, method: str) -> dict[str, str]:
    """Return start → what share of the oracle's gain the study's runs of a method had, setting by setting."""
    path = results / "mechanism/cells.csv"
    if not path.exists():
        return {}
    cells = pd.read_csv(path)
    of_method = cells[(cells["method"] == method) | (cells["name"] == method)].dropna(subset=["oracle_share"])
    return {
        str(start): "; ".join(
            f"{row.setting} {row.oracle_share:.0%} [{row.oracle_share_low:.0%}, {row.oracle_share_high:.0%}]"
            for row in rows.itertuples()
        )
        for start, rows in of_method.groupby("start", sort=False)
    }


def _start_files(results: Path, start: str) -> tuple[Path, Path]:
    """A start's weights, and how often its calls are right."""
    return (
        results / f"models/student/{start}/start0/model.safetensors",
        results / f"student_calls/{start}/start0.json",
    )


def _teacher(method: Method, config: Config, results: Path) -> dict[str, Path]:
    """Source of a method → file that says that what it reads of the teacher is there."""
    found = {}
    if method.reads_cache:
        found["cache"] = results / "teacher/start0/cache/main.stats.json"
    if method.asks_teacher(config):
        seed = config.teacher.train_seed
        found["teacher"] = results / f"teacher/start0/seed{seed}/model/model.safetensors"
    return found


def _folder(path: Path) -> Path:
    """The folder that a file of the teacher stands for: the cache beside its figures, or the model of its weights."""
    return path.with_name(path.name.removesuffix(".stats.json")) if path.suffix == ".json" else path.parent


def _check_built(paths: Sequence[Path]) -> None:
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise NotBuiltError(
            f"found no {missing[0]}, expected what the study of sparsity trains from ({len(missing)} files missing); "
            f"make it: snakemake {' '.join(missing)} --cores all --configfile config/sparse.yaml"
        )


def main(arguments: Sequence[str]) -> str:
    """Return the table on a method, for the terminal.

    Raises:
        SystemExit: with one line where the method is unknown or something has not been made.
    """
    parser = argparse.ArgumentParser(prog="python -m baselines.try_reward", description=str(__doc__).splitlines()[0])
    parser.add_argument("method", help="name in baselines.METHODS, or of a variant of the profile")
    parser.add_argument("--configfile", type=Path, default=Path("config/sparse.yaml"))
    parser.add_argument("--prompts-per-set", type=int, default=8)
    options = parser.parse_args(arguments)
    try:
        config = read_config([_BASE, options.configfile])
        check_methods(replace(config, methods=(options.method,)), METHODS)
        results = Path("results") / config.profile
        rows = try_reward(options.method, config, results, options.prompts_per_set)
    except (ConfigError, NotBuiltError, PreflightError) as error:
        sys.exit(f"error: {error}")
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    print(main(sys.argv[1:]))
