"""Prefix trees of the turns that follow a prompt: tokens that several turns begin with are evaluated once.

All turns of a prompt pass the model as one sequence, whose attention mask lets each token see only the tokens on its
own path from the root.

Shapes: S prompts, C tokens of a tree, E targets of a tree, G turns of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iapo.attribution.path import EmbeddingPath
from iapo.attribution.shared_prompts.prompt_groups import SharedPrompt


@dataclass(frozen=True)
class CallTrees:
    """The trees of the prompts of one forward pass, padded to the largest.

    The root is the prompt's last token. A turn's last target is only predicted, so it is no token of the tree.
    """

    row_of: Tensor
    """[S, C] a row of the path that holds the token."""
    column_of: Tensor
    """[S, C] the token's column in that row."""
    attention_mask: Tensor
    """bool [S, C, C] which tokens a token sees: itself and its ancestors; padding sees itself alone."""
    target_at: Tensor
    """[S, E] index of the token that predicts the target."""
    target: Tensor
    """[S, E] the target's token id."""
    members: Tensor
    """[S, G, E] float64, 1 where the target belongs to the turn."""


@dataclass
class CallTree:
    """The tree of one prompt's turns, with tokens and targets numbered in the order in which they were added."""

    turns: list[list[int]] = field(default_factory=list)
    """[G]: per turn, the numbers of its targets."""
    tokens: dict[tuple[int, int], int] = field(default_factory=dict)
    """(number of the parent, -1 at the root; token id) → number of the token."""
    places: list[tuple[int, int]] = field(default_factory=list)
    """[C]: per token, a row and column of the path that hold it."""
    lineages: list[list[int]] = field(default_factory=list)
    """[C]: per token, the numbers of its ancestors from the root on, and its own."""
    targets: dict[tuple[int, int], int] = field(default_factory=dict)
    """(number of the token that predicts it, token id) → number of the target."""

    @staticmethod
    def of(path: EmbeddingPath, prompt: SharedPrompt) -> CallTree:
        """Build the tree of a prompt's turns, in the order of its rows.

        Args:
            path: of all rows: token ids and targets.
            prompt: the prompt and the columns of its turns.
        """
        tree = CallTree()
        ids, is_target = path.ids_BL[prompt.rows].tolist(), path.target_BL[prompt.rows].tolist()
        for g, (row, tail) in enumerate(zip(prompt.rows, prompt.tails, strict=True)):
            columns = tail.tolist()
            tree._add_turn(row, columns, [ids[g][c] for c in columns], [is_target[g][c] for c in columns])
        return tree

    def _add_turn(self, row: int, columns: Sequence[int], ids: Sequence[int], is_target: Sequence[bool]) -> None:
        node = -1
        self.turns.append([])
        for column, token, next_token, next_is_target in zip(columns, ids, ids[1:], is_target[1:], strict=False):
            ancestors = self.lineages[node] if node >= 0 else []
            node = self.tokens.setdefault((node, token), len(self.tokens))
            if node == len(self.places):
                self.places.append((row, column))
                self.lineages.append([*ancestors, node])
            if next_is_target:
                self.turns[-1].append(self.targets.setdefault((node, next_token), len(self.targets)))


def call_trees(trees: Sequence[CallTree], device: torch.device) -> CallTrees:
    """Pad the trees of several prompts and put them into tensors.

    Args:
        trees: [S]
        device: where the tensors go.
    """
    places = pad_sequence([torch.tensor(tree.places) for tree in trees], batch_first=True)
    # A tree without targets gets one that belongs to no turn.
    targets = pad_sequence([torch.tensor([*tree.targets] or [(0, 0)]) for tree in trees], batch_first=True)
    # Padding sees itself: a softmax over nothing would be nan.
    attention_mask = torch.eye(places.shape[1], dtype=torch.bool).repeat(len(trees), 1, 1)
    visible = [
        (s, token, ancestor)
        for s, tree in enumerate(trees)
        for token, lineage in enumerate(tree.lineages)
        for ancestor in lineage
    ]
    attention_mask[torch.tensor(visible).unbind(1)] = True
    members = torch.zeros(len(trees), max(len(tree.turns) for tree in trees), targets.shape[1], dtype=torch.float64)
    of_turns = [(s, g, e) for s, tree in enumerate(trees) for g, turn in enumerate(tree.turns) for e in turn]
    members[torch.tensor(of_turns, dtype=torch.long).view(-1, 3).unbind(1)] = 1
    row_of, column_of, target_at, target = (each.to(device) for pair in (places, targets) for each in pair.unbind(-1))
    return CallTrees(row_of, column_of, attention_mask.to(device), target_at, target, members.to(device))
