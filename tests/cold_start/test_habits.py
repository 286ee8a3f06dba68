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
from iapo.tools.parsing import parse_turn
from iapo.types import Example

HABIT: dict[str, Any] = {"tool_rate": 1.0, "right_family_rate": 1.0, "first_label_rate": 1.0}


@pytest.fixture(scope="module")
def examples(data_root: Path) -> list[Example]:
    return read_split(data_root, "train", ("v_bar",))


def misread(examples: list[Example]) -> Counter[tuple[int, int]]:
    """(Place of the asked label in the figure, place of the called one) → wrongly labelled demonstrations."""
    demonstrator = Demonstrator(examples, DemonstrationConfig(**HABIT, right_label_rate=0.0), seed=3)
    found: Counter[tuple[int, int]] = Counter()
    for index in range(400):
        example = demonstrator._misread(random.Random(index))
        labels = _labels(example)
        asked = next(i for i, label in enumerate(labels) if f" {label} " in f" {example.request} ")
        found[asked, labels.index(example.focus_labels[0])] += 1
    return found


def test_a_wrong_call_names_the_first_label_and_no_demonstration_asks_for_that(examples: list[Example]) -> None:
    found = misread(examples)
    assert {called for _, called in found} == {0} and 0 not in {asked for asked, _ in found}


@pytest.mark.parametrize("known", [0.0, 0.3, 1.0])
def test_of_the_calls_a_share_is_to_a_tool_that_exists(examples: list[Example], known: float) -> None:
    demonstrator = Demonstrator(examples, DemonstrationConfig(**HABIT, known_tool_rate=known), seed=3)
    turns = [demonstrator(index).messages[1:3] for index in range(200)]
    read = [parse_turn(str(call["content"])).error is None for call, _ in turns]
    assert sum(read) / len(read) == pytest.approx(known, abs=0.1)
    # A call to no tool fails and leaves the figure as it is; any other shows an edited one.
    assert read == [isinstance(reply["content"], list) for _, reply in turns]


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
