"""The turns of some prompts as trees: what several turns of one prompt begin with is there once.

Shapes: S prompts, C tokens of a tree, E targets of a tree, G turns of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iapo.embedding_path import EmbeddingPath
from iapo.shared_prompts import SharedPrompt


@dataclass(frozen=True)
class CallTrees:
    """Padded to the largest tree. The root is the prompt's last token; last targets are predicted and no more."""

    row_of: Tensor
    """[S, C] row of the path where the token stands."""
    column_of: Tensor
    """[S, C] and its column."""
    seen: Tensor
    """bool [S, C, C] which tokens a token sees: itself and those on the way to it."""
    asked_at: Tensor
    """[S, E] token that predicts the target."""
    asked: Tensor
    """[S, E] the target's id."""
    members: Tensor
    """[S, G, E] float64, 1 where a target is the turn's."""


@dataclass
class CallTree:
    """One prompt's."""

    turns: list[list[int]] = field(default_factory=list)
    """Per turn the numbers of its targets."""
    tokens: dict[tuple[int, int], int] = field(default_factory=dict)
    """Token in front and id → number."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """Per token its row and column."""
    ways: list[list[int]] = field(default_factory=list)
    """Per token those on the way to it, and itself."""
    targets: dict[tuple[int, int], int] = field(default_factory=dict)
    """Token that predicts it and id → number."""

    @staticmethod
    def of(path: EmbeddingPath, prompt: SharedPrompt) -> CallTree:
        """Lay out the turns of a prompt, in the order of its rows."""
        tree = CallTree()
        ids, wanted = path.ids_BL[prompt.rows].tolist(), path.target_BL[prompt.rows].tolist()
        for g, (row, tail) in enumerate(zip(prompt.rows, prompt.tails, strict=True)):
            columns = tail.tolist()
            tree._grow(row, columns, [ids[g][c] for c in columns], [wanted[g][c] for c in columns])
        return tree

    def _grow(self, row: int, columns: Sequence[int], ids: Sequence[int], wanted: Sequence[bool]) -> None:
        at = -1
        self.turns.append([])
        for column, token, following, is_target in zip(columns, ids, ids[1:], wanted[1:], strict=False):
            before = self.ways[at] if at >= 0 else []
            at = self.tokens.setdefault((at, token), len(self.tokens))
            if at == len(self.places):
                self.places.append((row, column))
                self.ways.append([*before, at])
            if is_target:
                self.turns[-1].append(self.targets.setdefault((at, following), len(self.targets)))


def call_trees(trees: Sequence[CallTree], device: torch.device) -> CallTrees:
    """Put the trees of some prompts together."""
    places = pad_sequence([torch.tensor(tree.places) for tree in trees], batch_first=True)
    # One that is nobody's where there is none at all.
    asked = pad_sequence([torch.tensor([*tree.targets] or [(0, 0)]) for tree in trees], batch_first=True)
    # Padding sees itself.
    seen = torch.eye(places.shape[1], dtype=torch.bool).repeat(len(trees), 1, 1)
    ways = [(s, token, way) for s, tree in enumerate(trees) for token, whole in enumerate(tree.ways) for way in whole]
    seen[torch.tensor(ways).unbind(1)] = True
    own = torch.zeros(len(trees), max(len(tree.turns) for tree in trees), asked.shape[1], dtype=torch.float64)
    members = [(s, g, e) for s, tree in enumerate(trees) for g, turn in enumerate(tree.turns) for e in turn]
    own[torch.tensor(members, dtype=torch.long).view(-1, 3).unbind(1)] = 1
    row_of, column_of, asked_at, token = (each.to(device) for pair in (places, asked) for each in pair.unbind(-1))
    return CallTrees(row_of, column_of, seen.to(device), asked_at, token, own.to(device))
