"""Dealing figures to splits: one side each, at the rates asked for, whatever the order."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from iapo.data.splits import deal, linked


def test_links_reach_through_others() -> None:
    groups = linked({"a": ["x"], "b": ["x", "y"], "c": ["y"], "d": ["z"], "e": []})
    assert groups == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e"}


@given(
    st.lists(st.sets(st.sampled_from("abcdefghijkl"), max_size=12), max_size=4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_every_group_has_one_side_and_rates_hold_where_sets_are_apart(
    sets: list[set[str]], test_rate: float, dev_rate: float, seed: int
) -> None:
    sides = deal(sets, test_rate=test_rate, dev_rate=dev_rate, seed=seed)
    assert sides.keys() == set().union(*sets)
    assert deal([sorted(groups) for groups in sets], test_rate=test_rate, dev_rate=dev_rate, seed=seed) == sides
    if sets:
        count = len(sets[0])
        first = Counter(sides[group] for group in sets[0])
        assert first["test"] == (min(count - 1, max(1, round(test_rate * count))) if test_rate and count > 1 else 0)
        assert not count or first["train"] >= 1


def test_groups_on_a_side_count_towards_the_rate_of_a_later_set() -> None:
    first, second = [f"a{i}" for i in range(10)], [f"b{i}" for i in range(10)]
    sides = deal([first, [*first, *second]], test_rate=0.5, dev_rate=0.2, seed=0)
    assert Counter(sides[group] for group in first) == {"test": 5, "dev": 1, "train": 4}
    assert Counter(sides.values()) == {"test": 10, "dev": 2, "train": 8}
