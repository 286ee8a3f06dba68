"""Model cards: what they say of a policy, and that what they show to load it loads it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from baselines import METHODS
from benchmarks.cards import TrainedPolicy, write_card
from benchmarks.readme import REFERENCE
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import sha256_file
from iapo.artifacts.run_record import Job, Plan
from iapo.config.declared import declare
from iapo.config.schema import Config, load_config
from iapo.models.loading import save_model

MINI = load_config(yaml.safe_load((ROOT / "config/mini.yaml").read_text()))
CODE = "0123456789abcdef"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_csv(REFERENCE / "main.csv", dtype={"by_seed": str})


def policy(folder: Path, config: Config, row: str, place: int, seed: int) -> TrainedPolicy:
    """A policy with the record that its training leaves."""
    start = folder / "start.safetensors"
    start.write_bytes(b"weights")
    job = Job(config, config, Plan("train_policy", [], [], [], threads=1, code=CODE))
    settings = declare(config, *METHODS["iapo"].settings_read)
    job.write_record(
        folder / "model.run.json", inputs={"start": start}, seeds={"train": seed}, method=row, settings=settings
    )
    return TrainedPolicy(row, place, METHODS["iapo"].summary, json.loads((folder / "model.run.json").read_text()))


def written(folder: Path, of: TrainedPolicy, table: pd.DataFrame) -> tuple[dict[str, Any], str]:
    """The card's metadata, and its text with single spaces."""
    path = folder / "model/README.md"
    write_card(path, of, table, "mini")
    first = path.read_bytes()
    write_card(path, of, table, "mini")
    assert path.read_bytes() == first
    card = ModelCard.load(path)
    return card.data.to_dict(), re.sub(r" +", " ", card.text)


def test_a_card_has_the_run_s_row_its_origin_and_its_settings(tmp_path: Path, table: pd.DataFrame) -> None:
    data, text = written(tmp_path, policy(tmp_path, MINI, "iapo", place=3, seed=3), table)
    average = table[(table["method"] == "iapo") & (table["test_set"] == "average")].iloc[0]
    own = float(average["by_seed"].split()[3])
    low, high = 100 * average["ci_low"], 100 * average["ci_high"]
    assert f"| average | {100 * own:.1f} | {100 * average['accuracy']:.1f} | {low:.1f} to {high:.1f} | 900 |" in text
    assert f"mean of its {average['n_seeds']} runs" in text and text.startswith("\n# iapo, seed 3\n")
    for said in (
        f"| code | {CODE} |",
        f"| requirements.lock | sha256 {sha256_file(ROOT / 'requirements.lock')} |",
        f"sha256 {sha256_file(tmp_path / 'start.safetensors')}",
        f"| train.learning_rate | {MINI.train.learning_rate} |",
        f"| alignment.weight | {MINI.alignment.weight} |",
        f"hf upload OWNER/mini-iapo-seed3 {tmp_path / 'model'}",
    ):
        assert said in text, said
    assert "report_to" not in text
    assert (data["license"], data["library_name"]) == ("apache-2.0", "transformers") and "base_model" not in data
    (index,) = data["model-index"]
    results = {each["dataset"]["name"]: each["metrics"][0]["value"] for each in index["results"]}
    assert index["name"] == "mini-iapo-seed3" and results.keys() == set(MINI.test_sets)
    by_set = table[(table["method"] == "iapo")].set_index("test_set")["by_seed"]
    assert all(value == float(by_set[name].split()[3]) for name, value in results.items())


def test_a_pretrained_policy_names_its_base_its_data_and_whose_licence_it_keeps(
    tmp_path: Path, table: pd.DataFrame
) -> None:
    paper = load_config(yaml.safe_load((ROOT / "config/paper.yaml").read_text()))
    bases = {row: getattr(paper, kind).model.pretrained.source for row, kind in (("iapo", "student"), ("teacher",) * 2)}
    for row, base in bases.items():
        data, text = written(tmp_path, policy(tmp_path, paper, row, place=0, seed=0), table)
        assert (data["base_model"], data["license"]) == (base.repo, "other") and base.repo in data["license_link"]
        assert f"| base model | {base.repo} at {base.revision} |" in text
        assert paper.data.refocus is not None and data["datasets"] == [paper.data.refocus.source.repo]


def test_a_record_of_older_code_has_a_card_too(tmp_path: Path, table: pd.DataFrame) -> None:
    of = policy(tmp_path, MINI, "iapo", place=0, seed=0)
    plan = {name: value for name, value in of.record["plan"].items() if name != "code"}
    older = {name: value for name, value in of.record.items() if name != "lock"} | {"plan": plan}
    _, text = written(tmp_path, replace(of, record=older), table)
    assert "| code | not recorded |" in text and "| requirements.lock | not recorded |" in text


def test_a_policy_without_a_row_is_not_evaluated(tmp_path: Path, table: pd.DataFrame) -> None:
    data, text = written(tmp_path, policy(tmp_path, MINI, "short_calls", place=0, seed=0), table)
    assert "Not evaluated." in text and "model-index" not in data


def test_the_card_s_code_loads_the_policy(tmp_path: Path, table: pd.DataFrame, tiny: tuple[Any, Any]) -> None:
    save_model(*tiny, tmp_path / "model")
    _, text = written(tmp_path, policy(tmp_path, MINI, "iapo", place=0, seed=0), table)
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["model"].num_parameters() == tiny[0].num_parameters()
