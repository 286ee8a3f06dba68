"""Deal figures to splits, so that no figure is on two sides, whatever the order of the records."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

from iapo.types import Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def linked(items: Mapping[str, Iterable[Hashable]]) -> dict[str, str]:
    """Groups of items that share a link, directly or through others.

    Args:
        items: name → its links.

    Returns:
        Name → the group's name, which is the least of its members'.
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
    """The side of every group.

    Args:
        sets: the groups of each test set; a group may be in several and is then on one side in all of them.
        test_rate: share of each set's groups that is tested on.
        dev_rate: share of the others that is held out.
        seed: of the draw. A share that is not 0 takes a group at least, and leaves one.

    Returns:
        Group → split.
    """
    side: dict[str, Split] = {}
    for groups in sets:
        ranked = sorted(set(groups), key=lambda group: ranking(seed, group))
        tested = _share(test_rate, len(ranked))
        held_out = _share(dev_rate, len(ranked) - tested)
        wanted: Mapping[Split, int] = {"test": tested, "dev": held_out}
        for split, count in wanted.items():
            free = [group for group in ranked if group not in side]
            have = sum(side.get(group) == split for group in ranked)
            side.update(dict.fromkeys(free[: max(0, count - have)], split))
        side.update(dict.fromkeys([group for group in ranked if group not in side], "train"))
    return side


def ranking(seed: int, name: str) -> str:
    """A key that sorts names into an order drawn by the seed, the same for a name among any others."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _share(rate: float, count: int) -> int:
    return min(count - 1, max(1, round(rate * count))) if rate > 0 and count > 1 else 0
