"""Assignment of figures to train, dev and test, so that no figure is in two splits.

The assignment depends on the seed and the names alone, never on the order of the records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

from iapo.types import Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def linked(items: Mapping[str, Iterable[Hashable]]) -> dict[str, str]:
    """Return the connected components of items that share a link, directly or through others (union-find).

    Args:
        items: name → its links.

    Returns:
        Name → name of its group, the alphabetically first of the group's members.
    """
    group = {name: name for name in items}

    def root(name: str) -> str:
        while group[name] != name:
            group[name] = group[group[name]]
            name = group[name]
        return name

    owner: dict[Hashable, str] = {}
    for name in sorted(items):
        for link in items[name]:
            low, high = sorted((root(owner.setdefault(link, name)), root(name)))
            group[high] = low
    return {name: root(name) for name in items}


def deal(sets: Sequence[Iterable[str]], *, test_rate: float, dev_rate: float, seed: int) -> dict[str, Split]:
    """Assign every group to a split.

    A rate above 0 takes at least one group of a set and leaves at least one, where the set has two or more.

    Args:
        sets: the groups of each test set; a group that is in several sets gets the same split in all of them.
        test_rate: share of each set's groups that goes to test.
        dev_rate: share of the remaining groups that goes to dev.
        seed: seed of the random order.

    Returns:
        Group → split.
    """
    split_of: dict[str, Split] = {}
    for groups in sets:
        ranked = sorted(set(groups), key=lambda group: ranking(seed, group))
        test_count = _group_count(test_rate, len(ranked))
        dev_count = _group_count(dev_rate, len(ranked) - test_count)
        targets: Mapping[Split, int] = {"test": test_count, "dev": dev_count}
        for split, count in targets.items():
            free = [group for group in ranked if group not in split_of]
            assigned = sum(split_of.get(group) == split for group in ranked)
            split_of.update(dict.fromkeys(free[: max(0, count - assigned)], split))
        split_of.update(dict.fromkeys([group for group in ranked if group not in split_of], "train"))
    return split_of


def ranking(seed: int, name: str) -> str:
    """Return a sort key that puts names in a random order fixed by the seed; a name's key depends on no other name."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _group_count(rate: float, count: int) -> int:
    return min(count - 1, max(1, round(rate * count))) if rate > 0 and count > 1 else 0
