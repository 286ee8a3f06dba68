"""A job sees the settings that its rule declares, and a change of one of them changes the rule's params."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from baselines import METHODS
from iapo.config import declared
from iapo.config.declared import UndeclaredSettingError, declare, declared_config, value_of, with_value
from iapo.config.schema import Config

CONFIG = Config(profile="test")
SECTIONS = [field.name for field in dataclasses.fields(Config)]


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """Dotted keys of all single settings."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, f"{path}{field.name}.")
        else:
            yield f"{path}{field.name}"


def changed(config: Config, key: str) -> Config:
    """The same configuration with another value of one setting, valid or not."""

    def replaced(section: Any, names: list[str]) -> Any:
        copy = object.__new__(type(section))
        copy.__dict__.update(section.__dict__)
        copy.__dict__[names[0]] = "changed" if len(names) == 1 else replaced(getattr(section, names[0]), names[1:])
        return copy

    return replaced(config, key.split("."))


FREE = {
    "attribution.tokens_per_forward",
    "hardware.bandwidth_tb",
    "hardware.cache_jobs",
    "hardware.disk_gb",
    "hardware.measured",
    "hardware.memory_gb",
    "hardware.tflops",
    "hardware.trials_on_one_gpu",
    "hardware.vllm_memory",
    "hardware.vllm_server",
    "seeds_per_job",
    "student.first_stage.report_to",
    "student.first_stage.save_every",
    "teacher.train.report_to",
    "teacher.train.save_every",
    "train.report_to",
    "train.save_every",
    "verifier.base_url",
    "verifier.key_variable",
    "verifier.timeout",
}
"""What bounds memory or time, or says where something is: the whole list, so that a new one is a decision."""


@pytest.mark.parametrize("key", list(leaves(CONFIG)))
def test_every_setting_changes_its_section_s_params_unless_it_can_change_no_result(key: str) -> None:
    section = key.partition(".")[0]
    before, after = declare(CONFIG, section), declare(changed(CONFIG, key), section)
    # Asked for by name, a setting or section counts whatever it is: tables read the monitors.
    assert (before == after) == (key in FREE - {"seeds_per_job"})
    for other in set(SECTIONS) - {section}:
        assert declare(CONFIG, other) == declare(changed(CONFIG, key), other)


def test_settings_survive_the_way_to_a_job() -> None:
    keys = (
        "device",
        "attribution",
        "teacher_attribution",
        "teacher.n_steps",
        "train.temperature",
        "student.first_stage",
    )
    view = declared_config(json.loads(json.dumps(declare(CONFIG, *keys))), CONFIG)
    assert view.attribution == CONFIG.attribution and view.teacher_attribution == CONFIG.teacher_attribution
    assert view.train.temperature == CONFIG.train.temperature and view.student.first_stage is None
    assert view.hub == CONFIG.hub and view.train.save_every == CONFIG.train.save_every


@pytest.mark.parametrize("key", ["evaluation.turn_tokens", "train.steps", "alignment", "seed_batches", "sources"])
def test_a_setting_that_is_not_declared_fails_and_is_named(key: str) -> None:
    view: Any = declared_config(declare(CONFIG, "device", "train.temperature"), CONFIG)
    with pytest.raises(UndeclaredSettingError, match=r"its rule does not declare it"):
        for name in key.split("."):
            view = getattr(view, name)


def test_a_property_needs_what_it_reads() -> None:
    view = declared_config(declare(CONFIG, "attribution", "teacher.n_steps", "audit.prompts"), CONFIG)
    assert view.teacher_attribution == CONFIG.teacher_attribution
    assert view.audit.prompts_per_set == CONFIG.audit.prompts_per_set


def test_what_is_read_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "READ", set())
    view = declared_config(declare(CONFIG, "device", "train", "attribution"), CONFIG)
    assert view.train.steps and view.device
    assert {"device", "train"} == declared.READ


def test_a_value_is_replaced_where_it_is_declared() -> None:
    settings = declare(CONFIG, "train", "rewards.failed_call")
    assert value_of(with_value(settings, "train.steps", 3), "train.steps") == 3
    assert with_value(settings, "rewards.failed_call", 0.1)["rewards.failed_call"] == 0.1
    with pytest.raises(KeyError):
        with_value(settings, "train.stpes", 3)
    assert settings == declare(CONFIG, "train", "rewards.failed_call")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_declares_what_its_rewards_read(name: str) -> None:
    method = METHODS[name]
    view = declared_config(declare(CONFIG, *method.settings_read), CONFIG)
    assert [term.weight for term in method.rewards(view)] == [term.weight for term in method.rewards(CONFIG)]
    assert ("alignment" in method.settings_read) == method.uses_teacher
