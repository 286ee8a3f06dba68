"""Model cards: the ``README.md`` beside a trained policy, from its run record and its row of the main table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tabulate import tabulate

from benchmarks.tables.render import percent
from iapo.artifacts.files import atomic_write

_CODE_LICENCE = "apache-2.0"
_NOT_KEPT = "not recorded"


@dataclass(frozen=True)
class TrainedPolicy:
    """One policy that was trained, and what is known of it."""

    row: str
    """Of the table: its method or variant, ``teacher`` or ``first_stage``."""
    place: int
    """Of its run among the row's runs, from 0."""
    summary: str
    """What its method rewards."""
    record: Mapping[str, Any]
    """Its run record."""

    @property
    def seed(self) -> int:
        """Seed of its training."""
        return int(self.record["seeds"]["train"])

    @property
    def base(self) -> Mapping[str, Any] | None:
        """Repository and revision of the pretrained model that it was trained from; None for a tiny model."""
        config = self.record["config"]
        pretrained = config["teacher" if self.row == "teacher" else "student"]["model"]["pretrained"]
        return pretrained["source"] if pretrained else None

    @property
    def dataset(self) -> Mapping[str, Any] | None:
        """Repository and revision of its data; None for the mini world."""
        refocus = self.record["config"]["data"]["refocus"]
        return refocus["source"] if refocus else None


def write_card(path: Path, policy: TrainedPolicy, table: pd.DataFrame, profile: str) -> None:
    """Write a policy's model card.

    Args:
        path: of the ``README.md`` in its folder.
        policy: the policy.
        table: of :func:`benchmarks.tables.main.main_table`, as its CSV file has it.
        profile: of the run.
    """
    rows = _scores(policy, table)
    card = ModelCard(f"---\n{_metadata(policy, rows, profile).to_yaml()}\n---\n\n{_text(policy, rows, profile, path)}")
    with atomic_write(path) as tmp:
        tmp.write_text(str(card))


def _scores(policy: TrainedPolicy, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Set by set the accuracy of the policy's own run and its row's; empty where a set has none."""
    return [
        {"set": row["test_set"], "own": _own(policy, row["by_seed"])}
        | {name: row[name] for name in ("accuracy", "ci_low", "ci_high", "n_items", "n_seeds")}
        for _, row in table[table["method"] == policy.row].iterrows()
    ]


def _own(policy: TrainedPolicy, by_seed: object) -> float | None:
    runs = by_seed.split() if isinstance(by_seed, str) else []
    return float(runs[policy.place]) if policy.place < len(runs) else None


def _metadata(policy: TrainedPolicy, rows: Sequence[Mapping[str, Any]], profile: str) -> ModelCardData:
    base, dataset = policy.base, policy.dataset
    licence: dict[str, Any] = (
        # Weights keep the licence of those that they come from, which no file here names.
        {
            "license": "other",
            "license_name": "as-the-base-model",
            "license_link": f"https://huggingface.co/{base['repo']}",
        }
        if base
        else {"license": _CODE_LICENCE}
    )
    return ModelCardData(
        **licence,
        base_model=base["repo"] if base else None,
        datasets=[dataset["repo"]] if dataset else None,
        language="en",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["grpo", "trl", "tool-use", policy.row],
        model_name=_name(policy, profile),
        eval_results=[
            EvalResult(
                task_type="visual-question-answering",
                dataset_type=row["set"],
                dataset_name=row["set"],
                metric_type="accuracy",
                metric_value=row["own"],
            )
            for row in rows
            if row["own"] is not None and row["set"] != "average"
        ]
        or None,
    )


def _name(policy: TrainedPolicy, profile: str) -> str:
    return f"{profile}-{policy.row}-seed{policy.seed}"


def _text(policy: TrainedPolicy, rows: Sequence[Mapping[str, Any]], profile: str, path: Path) -> str:
    """The card below its metadata, as Markdown."""
    folder = path.parent.as_posix()
    return "\n\n".join(
        [
            f"# {policy.row}, seed {policy.seed}",
            "A Qwen2.5-VL policy that calls image-editing tools, trained by GRPO in a benchmark of Input "
            f"Attribution-Aware Policy Optimization, profile `{profile}`. Its reward: {policy.summary}.",
            "## Results",
            _results(rows),
            "## How it was made",
            _table(("", ""), _origin(policy)),
            "## Training settings",
            _table(("setting", "value"), sorted(_flat(policy.record["facts"]["settings"]))),
            "## Load it",
            _loading(folder),
            "## Share it",
            f"```\nhf upload OWNER/{_name(policy, profile)} {folder}\n```",
            "Nothing is uploaded by itself. Read the licence first.",
            "## Licence",
            _licence(policy),
        ]
    )


def _results(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Not evaluated."
    shown = [
        (
            row["set"],
            percent(row["own"]),
            percent(row["accuracy"]),
            f"{percent(row['ci_low'])} to {percent(row['ci_high'])}",
            row["n_items"],
        )
        for row in rows
    ]
    runs = rows[0]["n_seeds"]
    headers = ("test set", "this policy", f"mean of its {runs} runs", "95 % interval", "questions")
    return "Accuracy in percent, greedy decoding.\n\n" + _table(headers, shown)


def _origin(policy: TrainedPolicy) -> list[tuple[str, str]]:
    """What the policy was made of and by, from its run record."""
    record, base, dataset = policy.record, policy.base, policy.dataset
    config, hardware = record["config"], record["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    state = " with changes" if record["dirty"] else ""
    inputs = [(f"input: {name}", f"{file['path']}, sha256 {file['sha256']}") for name, file in record["inputs"].items()]
    return [
        ("base model", f"{base['repo']} at {base['revision']}" if base else "none: a tiny model, from random weights"),
        ("method", f"`{policy.row}`: {policy.summary}"),
        ("seed", str(policy.seed)),
        (
            "data",
            f"{dataset['repo']} at {dataset['revision']}"
            if dataset
            else f"the mini world, drawn from Gapminder's tables with seed {config['data']['seed']}",
        ),
        *inputs,
        ("trained", f"{record['started']}, {record['wall_seconds']:.0f} s"),
        ("hardware", ", ".join(hardware.get("gpus") or [f"{hardware['cores']} cores, {hardware['processor']}"])),
        ("commit", f"{record['commit']}{state}" if record["commit"] else _NOT_KEPT),
        ("code", record["plan"].get("code") or _NOT_KEPT),
        ("requirements.lock", f"sha256 {lock}" if (lock := record.get("lock")) else _NOT_KEPT),
        ("versions", versions),
    ]


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value of every single setting."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", str(value)


def _loading(folder: str) -> str:
    return (
        "```python\nfrom transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration\n\n"
        f'model = Qwen2_5_VLForConditionalGeneration.from_pretrained("{folder}")\n'
        f'processor = AutoProcessor.from_pretrained("{folder}")\n```\n\n'
        "Prompts, tools and the two turns are those of the benchmark; there `lmms-eval` asks it the test questions "
        "(`docs/evaluate.md`)."
    )


def _licence(policy: TrainedPolicy) -> str:
    if base := policy.base:
        return (
            f"The weights come from {base['repo']} and keep its licence, named on its page; the data may have its own. "
            "The code that trained them is under Apache-2.0."
        )
    return "Apache-2.0, as the code that made it from random weights."


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
