"""Trees of turns: what a target is predicted from, and that beginnings are shared."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from iapo.attribution.path import EmbeddingPath
from iapo.attribution.shared_prompts.prefix_tree import CallTree, call_trees
from iapo.attribution.shared_prompts.prompt_groups import SharedPrompt

ROOT = 9
turn = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6)
groups = st.lists(st.lists(turn, min_size=1, max_size=4), min_size=1, max_size=3)


@given(groups)
def test_every_target_is_predicted_from_its_own_beginning(groups: list[list[list[tuple[int, bool]]]]) -> None:
    turns = [each for group in groups for each in group]
    ids = torch.zeros(len(turns), 8, dtype=torch.long)
    target = torch.zeros(len(turns), 8, dtype=torch.bool)
    for row, each in enumerate(turns):
        # Padding in front shifts the rows against one another.
        start = row % 2
        ids[row, start] = ROOT
        ids[row, start + 1 : start + 1 + len(each)] = torch.tensor([token for token, _ in each])
        target[row, start + 1 : start + 1 + len(each)] = torch.tensor([wanted for _, wanted in each])
    nothing = torch.zeros(0)
    path = EmbeddingPath(nothing, nothing, nothing, nothing, ids, target, nothing)
    prompts, row = [], 0
    for group in groups:
        rows = list(range(row, row := row + len(group)))
        tails = [torch.arange(len(turns[r]) + 1) + r % 2 for r in rows]
        prompts.append(SharedPrompt(rows, [torch.arange(0)] * len(rows), tails))

    trees = call_trees([CallTree.of(path, prompt) for prompt in prompts], ids.device)

    for s, group in enumerate(groups):
        prefixes = {tuple(token for token, _ in each[:i]) for each in group for i in range(len(each))}
        # Padding sees itself alone and is nobody's.
        used = trees.attention_mask[s].sum(1) > 1
        assert int(used.sum()) + 1 == len(prefixes)
        for g, r in enumerate(prompts[s].rows):
            predicted = []
            for e in trees.members[s, g].nonzero()[:, 0].tolist():
                attention_mask = trees.attention_mask[s, trees.target_at[s, e]].nonzero()[:, 0].tolist()
                before = [int(ids[trees.row_of[s, c], trees.column_of[s, c]]) for c in attention_mask]
                predicted.append((before, int(trees.target[s, e])))
            tokens = [token for token, _ in turns[r]]
            expected = [([ROOT, *tokens[:i]], tokens[i]) for i, (_, wanted) in enumerate(turns[r]) if wanted]
            assert sorted(predicted) == sorted(expected)
            assert trees.members[s, g].sum() == len(expected)
