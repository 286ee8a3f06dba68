"""Configuration: one line a problem, and documents that follow the dataclasses."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from baselines import METHODS
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import atomic_directory, atomic_write
from iapo.config.conflicts import is_other_row
from iapo.config.reference import config_reference
from iapo.config.schema import ConfigError, HardwareConfig, config_schema, load_config
from iapo.config.sources import RERUNS_NOTHING
from iapo.jobs.estimate import read_config
from iapo.jobs.preflight import PreflightError, check_methods, claim_results

SOURCE = {"repo": "owner/name", "revision": "0" * 40}


def released(name: str = "theirs", **sections: dict) -> dict:
    """A configuration with one row of released weights."""
    right = {"model": {"source": SOURCE}, "prompt": {"address": "prompt.txt", "sha256": "0" * 64}}
    return {"released": {name: right | sections}}


SHARDED = {"processes": 2, "strategy": "fsdp2"}


@pytest.mark.gpu_run
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"train": {"stpes": 3}}, "train.stpes: unknown key; did you mean 'steps'?"),
        ({"teacher": {"model": {"hiden_size": 3}}}, "teacher.model.hiden_size: unknown key; did you mean"),
        ({"seeds": 0}, "seeds: found 0, expected a list: write [0] (config/README.md)"),
        ({"model": {}}, "model: unknown key; did you mean 'student.model' or 'teacher.model'"),
        (
            {"student": {"model": "Qwen"}},
            "student.model: found 'Qwen', expected a section: write {KEY: ...} with any of",
        ),
        ({"data": {"refocus": 3}}, "data.refocus: found 3, expected a section: write {KEY: ...} with any of source"),
        ({"variants": {"x": 3}}, "variants.x: found 3, expected a section: write {KEY: ...} with any of method"),
        ({"train": {"loss_type": "x"}}, "train.loss_type: found 'x'; input should be 'grpo'"),
        ({"train": {"steps": 0}}, "train.steps: found 0"),
        ({"seeds": [1, 1]}, "seeds: found [1, 1]"),
        ({"test_sets": ["docvqa"]}, "test_sets: found ['docvqa']; choose one or more of charxiv"),
        ({"train": {"sets": []}}, "train.sets: found []; choose one or more of charxiv"),
        ({"teacher": {"train": {"sets": ["docvqa"]}}}, "teacher.train.sets: found ['docvqa']; choose"),
        ({"alignment": {"aggregation": "l1"}}, "alignment.aggregation: found l1 without attribution.magnitudes"),
        ({"student": {"model": {"hidden_size": 50}}}, "student.model.hidden_size: found 50"),
        ({"variants": {"x": {"method": "iapo", "setings": {}}}}, "variants.x.setings: unknown key; did you mean"),
        (released(model={"sorce": 1, "source": SOURCE}), "released.theirs.model.sorce: unknown key; did you mean"),
        (released(prompt={"address": "x", "sha256": "0"}), "released.theirs.prompt.sha256: found '0'"),
        (released(), "released: found weights with the mini world"),
        (
            {"hardware": SHARDED, "alignment": {"loss_weight": 1.0}},
            "alignment.loss_weight: found it with shards",
        ),
        (
            {"alignment": {"loss_weight": 1.0, "aggregation": "length_normalised"}},
            "alignment.loss_weight: found it with alignment.aggregation length_normalised",
        ),
        (
            {"alignment": {"loss_weight": 1.0, "contrastive": True}},
            "alignment.loss_weight: found it with alignment.contrastive",
        ),
        (
            {"alignment": {"loss_weight": 1.0, "teacher": "uniform"}},
            "alignment.loss_weight: found it with alignment.teacher uniform",
        ),
        (
            {"alignment": {"normalise": "batch"}, "hardware": {"processes": 2}},
            "alignment.normalise: found batch with 2 processes",
        ),
        (
            {"student": {"first_stage": {"steps": 5, "average_last": 6}}},
            "student.first_stage.average_last: found 6 of 5 steps",
        ),
        ({"train": {"top_p": 0.99, "rollouts": "vllm_colocate"}}, "train.top_p: found 0.99 with vLLM"),
    ],
)
def test_each_problem_is_one_line(raw: dict, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config({"profile": "x", **raw})
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles_are_valid(path: Path) -> None:
    assert load_config(yaml.safe_load(path.read_text())).profile == path.stem


@pytest.mark.parametrize("name", ["iapo", "untrained", "teacher", "first_stage", "api"])
def test_a_released_row_has_a_name_of_its_own(name: str) -> None:
    paper = yaml.safe_load((ROOT / "config/paper.yaml").read_text())
    with pytest.raises(ConfigError, match=f"released.{name}: found the name of another row"):
        load_config({**paper, **released(name)})


def test_released_weights_are_rows_and_downloads_of_the_paper_s_run() -> None:
    config = load_config(yaml.safe_load((ROOT / "config/paper.yaml").read_text()))
    assert config.reference_policies[-2:] == ("released_vtool_r1_3b", "released_vtool_r1_7b")
    revisions = [config.sources[f"VTOOL/VTool-Qwen2.5-{size}"].revision for size in ("3B", "7B")]
    assert revisions == ["0ca11e812287b5c024c7277db71859da5bda17ac", "b5c901087a12796ab1a783520e1098a194eaa540"]
    assert len({each.prompt for each in config.released.values()}) == 1
    assert load_config({"profile": "x"}).reference_policies == ("untrained", "teacher_untrained", "teacher")


@pytest.mark.parametrize("profile", ["mini", "paper", "sparse", "smoke"])
def test_no_method_may_have_the_name_of_a_row_that_none_trains(profile: str) -> None:
    config = load_config(yaml.safe_load((ROOT / f"config/{profile}.yaml").read_text()))
    asked = replace(config, evaluation=replace(config.evaluation, api_model="a model"))
    others = [name for name in asked.reference_policies if name not in config.released]
    assert "api" in others and all(map(is_other_row, others))
    assert not any(map(is_other_row, METHODS))


def test_the_reference_and_the_schema_are_current() -> None:
    assert (ROOT / "config/README.md").read_text() == config_reference()
    schema = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    assert schema == json.loads(json.dumps(config_schema()))


def test_unknown_methods_and_a_second_run_are_said_first(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="did you mean 'iapo'"):
        check_methods(load_config({"profile": "x", "methods": ["iapoo"]}), ["iapo", "vtool_r1"])
    with pytest.raises(PreflightError, match=r"known methods: iapo; for one of your own: .* writes baselines/mine\.py"):
        check_methods(load_config({"profile": "x", "methods": ["mine"]}), ["iapo"])
    with pytest.raises(PreflightError, match="found 'teacher', the name of a row that no method trains"):
        check_methods(load_config({"profile": "x", "methods": ["teacher"]}), ["teacher"])
    claim_results(tmp_path)
    with pytest.raises(PreflightError, match="in use by another run"):
        claim_results(tmp_path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as tmp:
        tmp.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "folder") as tmp:
        (tmp / "x").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and target.read_text() == "old"


def test_every_key_of_the_hardware_that_decides_something_is_acted_on() -> None:
    estimated = {"costs.py", "estimate.py", "preflight.py"}
    folders = ("iapo", "baselines", "benchmarks", "workflow")
    sources = [
        path.read_text()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in estimated and "config" not in path.parts
    ]
    hints = get_type_hints(HardwareConfig, include_extras=True)
    decided = [key for key, hint in hints.items() if RERUNS_NOTHING not in getattr(hint, "__metadata__", ())]
    assert "precision" in decided and "tflops" not in decided
    assert [key for key in decided if not any(f"hardware.{key}" in text for text in sources)] == []


@pytest.mark.parametrize("preset", sorted((ROOT / "config/presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_valid_over_what_its_first_lines_name(preset: Path) -> None:
    head = " ".join(line.lstrip("# ") for line in preset.read_text().splitlines() if line.startswith("#"))
    named = head.partition("--configfile")[2] or head
    files = list(dict.fromkeys(re.findall(r"config/[\w/]+\.yaml", named.partition("`")[0]))) or ["config/paper.yaml"]
    if preset.stem.startswith("rehearsal"):
        files = ["config/paper.yaml", "config/presets/rehearsal.yaml"]
    own = str(preset.relative_to(ROOT))
    config = read_config([ROOT / "config/mini.yaml", *(ROOT / name for name in dict.fromkeys([*files, own]))])
    check_methods(config, METHODS)
