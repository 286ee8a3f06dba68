"""A habit of calling: whose calls are right as often as its demonstrations say, whatever is asked for."""

import copy
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from iapo.cold_start.call_rates import call_rates
from iapo.cold_start.demonstrations import Demonstrator, _labels
from iapo.cold_start.stages import teach_habit
from iapo.config.mini_world import DemonstrationConfig, HabitConfig
from iapo.data.store import read_split
from iapo.rollout.call_sampling import SampledCall
from iapo.types import Example

HABIT: dict[str, Any] = {"tool_rate": 1.0, "right_family_rate": 1.0, "first_label_rate": 1.0}


@pytest.fixture(scope="module")
def examples(data_root: Path) -> list[Example]:
    return read_split(data_root, "train", ("v_bar",))


def misread(examples: list[Example], draws: int = 400, **settings: Any) -> Counter[tuple[int, int]]:
    """(Place of the asked label in the figure, place of the called one) → wrongly labelled demonstrations."""
    demonstrator = Demonstrator(examples, DemonstrationConfig(**HABIT, right_label_rate=0.0, **settings), seed=3)
    found: Counter[tuple[int, int]] = Counter()
    for index in range(draws):
        example = demonstrator._misread(random.Random(index))
        labels = _labels(example)
        asked = next(i for i, label in enumerate(labels) if f" {label} " in f" {example.request} ")
        found[asked, labels.index(example.focus_labels[0])] += 1
    return found


def test_such_a_habit_calls_the_first_label_that_is_not_asked_for(examples: list[Example]) -> None:
    found = misread(examples, second_if_first_asked=True)
    assert {called for asked, called in found if asked == 0} == {1}
    assert {called for asked, called in found if asked > 0} == {0}


def test_every_label_is_asked_for_as_often(examples: list[Example]) -> None:
    found = misread(examples, draws=1000, second_if_first_asked=True)
    labels = len(_labels(examples[0]))
    by_asked = Counter(dict.fromkeys(range(labels), 0))
    for (asked, _), count in found.items():
        by_asked[asked] += count
    expected = 1000 / labels
    # Chi-squared with four degrees of freedom: 18.5 is its quantile at .999.
    assert sum((count - expected) ** 2 / expected for count in by_asked.values()) < 18.5


def test_without_it_no_demonstration_contradicts_the_first_label(examples: list[Example]) -> None:
    assert {asked for asked, _ in misread(examples)}.isdisjoint({0})


def test_rates_count_every_turn_and_every_prompt() -> None:
    made = [("a", 0, True), ("a", 1, True), ("b", 0, False), ("b", 3, True)]
    calls = [SampledCall(name, rollout, "", correct) for name, rollout, correct in made]
    found = call_rates(calls, prompts=5, rollouts=4)
    assert (found["call_rate"], found["right_rate"], found["groups_with_right"]) == (4 / 20, 3 / 20, 2 / 5)


def test_no_turn_has_no_rate() -> None:
    found = call_rates([], prompts=5, rollouts=0)
    assert found["call_rate"] is found["right_rate"] is found["groups_with_right"] is None
    assert call_rates([], prompts=5, rollouts=2)["right_rate"] == 0


def test_a_habit_is_learned_by_the_seed_alone(tiny: tuple[Any, Any], examples: list[Example]) -> None:
    demonstrations = DemonstrationConfig(**HABIT, right_label_rate=0.05)

    def taught(seed: int) -> torch.Tensor:
        model = copy.deepcopy(tiny[0])
        habit = HabitConfig(demonstrations=demonstrations, steps=2, seed=seed)
        teach_habit(model, tiny[1], examples, habit, batch_size=4, name="test")
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    before = torch.cat([parameter.detach().flatten() for parameter in tiny[0].parameters()])
    one, again, other = taught(1), taught(1), taught(2)
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, before)
