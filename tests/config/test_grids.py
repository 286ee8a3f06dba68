"""Grids of methods, settings and starts: the variants and methods that they stand for, and their seeds."""

from typing import Any

import pytest

from baselines import METHODS
from iapo.config.method_registry import resolve
from iapo.config.schema import ConfigError, load_config, with_overrides

BATCH = {"train": {"scale_rewards": "batch"}}


def raw(**grids: Any) -> dict[str, Any]:
    habits = {"rare": {"demonstrations": {}}, "often": {"demonstrations": {}}}
    return {"profile": "t", "methods": ["vtool_r1"], "seeds": [3, 4, 5], "student": {"habits": habits}, "grids": grids}


def grid(**more: Any) -> dict[str, Any]:
    return {"methods": ["iapo", "vtool_r1"], "settings": {"batch": BATCH}, "starts": ["rare", "often"]} | more


def test_each_combination_is_a_variant_and_a_method() -> None:
    config = load_config(raw(g=grid()))
    names = ("iapo_batch_rare", "vtool_r1_batch_rare", "iapo_batch_often", "vtool_r1_batch_often")
    assert config.methods == ("vtool_r1", *names) and config.habits_used == ["rare", "often"]
    method, resolved = resolve("iapo_batch_often", config, METHODS)
    assert (method.name, resolved.train.scale_rewards) == ("iapo_batch_often", "batch")
    assert config.variants["iapo_batch_often"].start == "often"
    # A configuration that is validated again stays what it is.
    assert with_overrides(config, {}, "t").methods == config.methods


def test_of_overlapping_grids_the_larger_number_of_seeds_counts() -> None:
    few, all_of_them = grid(seeds=1), grid(methods=["iapo"], starts=["rare"])
    config = load_config(raw(few=few, more=all_of_them))
    assert config.seeds_of("iapo_batch_rare") == config.seeds_of("vtool_r1") == (3, 4, 5)
    assert config.seeds_of("iapo_batch_often") == (3,)
    runs = [run for run in config.trained_runs if run[0] != "vtool_r1"]
    assert len(runs) == 3 + 3 and ("vtool_r1_batch_rare", 3) in runs


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"h": grid(settings={"batch": {}})}, "grids.h.settings.batch: found other overrides"),
        ({"h": grid(starts=["rrae"])}, "start: found 'rrae'"),
    ],
)
def test_grids_that_contradict_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(raw(g=grid(), **more))
    assert says in str(error.value)


def test_a_variant_of_a_combination_s_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"variants\.iapo_batch_rare: found the name of a grid's combination"):
        load_config(raw(g=grid()) | {"variants": {"iapo_batch_rare": {"method": "trm"}}})
