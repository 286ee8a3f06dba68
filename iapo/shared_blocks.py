"""Block sums of several calls on the same prompt: one tangent a block through the prompt and through the calls.

A prompt passes the model once per path point, and behind it, as a tree, the calls that follow it. No gradient goes
back through either. The same numbers as row by row, to rounding.

Shapes: S prompts, R points of prompts, P prompt tokens, C tokens of a tree, T targets at all points, G calls of a
prompt, K blocks, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from iapo.alignment import BLOCKS
from iapo.block_tangents import Columns, behind_prompts, prompt_memory
from iapo.call_trees import CallTree, CallTrees, call_trees
from iapo.embedding_path import EmbeddingPath
from iapo.precision import full_precision, passed
from iapo.shared_prompts import PathPoints, PromptBatch, SharedPrompt, SharedRows

_LOGITS_TOGETHER = 2**26
"""Logits held at a time: 440 targets of Qwen2.5-VL, .3 GB in fp32."""


class SharedBlocks(SharedRows):
    """The rows of a path, grouped by prompt; integrated per block."""

    def __init__(
        self, model: Any, path: EmbeddingPath, prompts: Sequence[SharedPrompt], tokens_per_forward: int
    ) -> None:
        super().__init__(model, path, prompts, tokens_per_forward)
        self._trees: dict[SharedPrompt, CallTree] = {}

    @property
    def width(self) -> int:
        """K."""
        return len(BLOCKS)

    def _along(self, prompts: Sequence[SharedPrompt], at: PathPoints) -> tuple[Tensor, Tensor]:
        return _moving(self._model, self._path, prompts, self._calls(prompts), at, self.width)

    def _values(self, prompts: Sequence[SharedPrompt], at: PathPoints) -> Tensor:
        return _moving(self._model, self._path, prompts, self._calls(prompts), at, 0)[0]

    def _calls(self, prompts: Sequence[SharedPrompt]) -> CallTrees:
        for prompt in prompts:
            if prompt not in self._trees:
                self._trees[prompt] = CallTree.of(self._path, prompt)
        return call_trees([self._trees[prompt] for prompt in prompts], self._path.ids_BL.device)


def _moving(
    model: Any,
    path: EmbeddingPath,
    prompts: Sequence[SharedPrompt],
    trees: CallTrees,
    points: PathPoints,
    blocks: int,
) -> tuple[Tensor, Tensor]:
    """Log-probability of the calls of some prompts, and how it moves along the difference of the first ``blocks``.

    Returns:
        [R, G] nats and [R, G, K] nats per unit of the path, float64; zero where a prompt has fewer calls.
    """
    batch, text = PromptBatch(path, prompts), model.model.language_model
    of_point = points.prompt
    at = Columns.of_prompts(batch.blocks_SP, blocks)
    own = batch.blocks_SP[:, at.token] == at.block.to(of_point.device)
    directions = batch.difference_SPD[:, at.token] * own[..., None]
    memories = prompt_memory(
        text,
        torch.cat([batch.at(points), directions[of_point]], 1),
        batch.positions_3SP[:, of_point],
        batch.mask_SP[of_point],
        at,
    )
    of_prompt = batch.mask_SP.bool()[:, None].expand(-1, trees.seen.shape[1], -1)
    # Where some tree has a target and others have none.
    point, target = trees.members.any(1)[of_point].nonzero(as_tuple=True)
    asked_at = trees.asked_at[of_point[point], target]
    # In full precision under autocast too: it is short beside the prompt, and most of the rounding comes from here.
    with full_precision(of_point.device):
        streams, d_streams = behind_prompts(
            text,
            memories,
            path.inputs_BLD[trees.row_of, trees.column_of][of_point],
            path.positions_3BL[:, trees.row_of, trees.column_of][:, of_point],
            torch.cat([of_prompt, trees.seen], 2)[of_point],
        )
        log_p, gradient = _asked(model, streams[point, asked_at], trees.asked[of_point[point], target], blocks > 0)
    products = torch.einsum("td,tkd->tk", gradient, d_streams[point, :, asked_at])
    of_target = log_p.new_zeros(len(of_point), trees.members.shape[2], 1 + blocks, dtype=torch.float64)
    of_target[point, target] = torch.cat([log_p[:, None], products], 1).double()
    of_turn = trees.members[of_point] @ of_target
    return of_turn[..., 0], of_turn[..., 1:]


def _asked(model: Any, streams_TD: Tensor, ids_T: Tensor, moving: bool) -> tuple[Tensor, Tensor]:
    """Log-probability of the targets, and its gradient in what enters the last layer's second half.

    That half and the vocabulary are as wide as the rest together, and one gradient serves all blocks.
    """
    together = max(1, _LOGITS_TOGETHER // model.config.text_config.vocab_size)
    parts = [
        _asked_together(model, streams, ids, moving)
        for streams, ids in zip(streams_TD.split(together), ids_T.split(together), strict=True)
    ]
    log_p, gradient = (torch.cat(each) for each in zip(*parts, strict=True))
    return log_p, gradient


def _asked_together(model: Any, streams_TD: Tensor, ids_T: Tensor, moving: bool) -> tuple[Tensor, Tensor]:
    layer = model.model.language_model.layers[-1]
    with torch.set_grad_enabled(moving):
        inputs = streams_TD.detach().requires_grad_(moving)
        outputs = inputs + passed(layer.mlp, passed(layer.post_attention_layernorm, inputs))
        logits = passed(model.lm_head, passed(model.model.language_model.norm, outputs))
        loss = functional.cross_entropy(logits.float(), ids_T, reduction="none")
        gradient = torch.autograd.grad(-loss.sum(), inputs)[0] if moving else torch.zeros_like(inputs)
    return -loss.detach(), gradient
