"""The forward-mode engine: attribution to the blocks of a prompt that several calls share.

Per path point the prompt passes the model once, with one tangent (directional derivative) per block, and after it its
calls as one prefix tree. Neither needs a backward pass. The results equal those of evaluating row by row, to rounding.

Shapes: S prompts of a pass, R (prompt, point) pairs of a pass, P prompt tokens, C tokens of a tree, T targets at all
points, G calls of a prompt, K blocks, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from iapo.attribution.path import EmbeddingPath
from iapo.attribution.shared_prompts.forward_mode import TangentLayout, behind_prompts, prompt_memory
from iapo.attribution.shared_prompts.prefix_tree import CallTree, CallTrees, call_trees
from iapo.attribution.shared_prompts.prompt_groups import PathPoints, PromptBatch, SharedPrompt, SharedRows
from iapo.models.interfaces import QwenVL
from iapo.models.precision import full_precision, in_precision_of, passed
from iapo.types import BLOCKS

_LOGITS_TOGETHER = 2**26
"""Logits held in memory at a time: 440 targets with Qwen2.5-VL's vocabulary, 0.3 GB in fp32."""


class SharedBlocks(SharedRows):
    """The rows of a path, evaluated together with the other rows of their prompt and attributed per block."""

    def __init__(
        self, model: QwenVL, path: EmbeddingPath, prompts: Sequence[SharedPrompt], tokens_per_forward: int
    ) -> None:
        """Hold the rows and how to evaluate them.

        Args:
            model: student or teacher, in eval mode, with a decoder that
                :func:`iapo.attribution.shared_prompts.forward_mode.has_tangents` accepts.
            path: of all rows.
            prompts: from :func:`iapo.attribution.shared_prompts.prompt_groups.shared_prompts`.
            tokens_per_forward: bound on points × length of the prompts in one forward pass, padding included.
        """
        super().__init__(model, path, prompts, tokens_per_forward)
        self._trees: dict[SharedPrompt, CallTree] = {}

    @property
    def width(self) -> int:
        """K, the four blocks."""
        return len(BLOCKS)

    def _along(self, prompts: Sequence[SharedPrompt], points: PathPoints) -> tuple[Tensor, Tensor]:
        return _log_p_and_derivatives(self._model, self._path, prompts, self._calls(prompts), points, self.width)

    def _values(self, prompts: Sequence[SharedPrompt], points: PathPoints) -> Tensor:
        return _log_p_and_derivatives(self._model, self._path, prompts, self._calls(prompts), points, 0)[0]

    def _calls(self, prompts: Sequence[SharedPrompt]) -> CallTrees:
        for prompt in prompts:
            if prompt not in self._trees:
                self._trees[prompt] = CallTree.of(self._path, prompt)
        return call_trees([self._trees[prompt] for prompt in prompts], self._path.ids_BL.device)


def _log_p_and_derivatives(
    model: QwenVL,
    path: EmbeddingPath,
    prompts: Sequence[SharedPrompt],
    trees: CallTrees,
    points: PathPoints,
    blocks: int,
) -> tuple[Tensor, Tensor]:
    """Evaluate the calls of one pass, and their derivatives along the difference of each of the first blocks.

    Args:
        model: student or teacher.
        path: of all rows.
        prompts: [S] the prompts of the pass.
        trees: their calls.
        points: the pass's (prompt, point) pairs.
        blocks: K, or 0 for the log-probability alone.

    Returns:
        The log-probability [R, G] in nats and its derivatives [R, G, K] in nats per unit of the path. Both float64,
        zero where a prompt has fewer calls.
    """
    batch, text = PromptBatch(path, prompts), model.model.language_model
    of_point = points.prompt
    layout = TangentLayout.of_prompts(batch.blocks_SP, blocks)
    in_block = batch.blocks_SP[:, layout.token] == layout.block.to(of_point.device)
    directions = batch.difference_SPD[:, layout.token] * in_block[..., None]
    caches = prompt_memory(
        text,
        torch.cat([batch.at(points), directions[of_point]], 1),
        batch.positions_3SP[:, of_point],
        batch.mask_SP[of_point],
        layout,
    )
    sees_prompt = batch.mask_SP.bool()[:, None].expand(-1, trees.attention_mask.shape[1], -1)
    # The (point, target) pairs without the trees' padding.
    point, target = trees.members.any(1)[of_point].nonzero(as_tuple=True)
    target_at = trees.target_at[of_point[point], target]
    # In full precision even under autocast: calls are short next to the prompt, and most rounding arises here.
    with full_precision(of_point.device):
        hidden_states, d_hidden_states = behind_prompts(
            text,
            caches,
            path.inputs_BLD[trees.row_of, trees.column_of][of_point],
            path.positions_3BL[:, trees.row_of, trees.column_of][:, of_point],
            torch.cat([sees_prompt, trees.attention_mask], 2)[of_point],
        )
        log_p, gradient = _target_log_p(
            model, hidden_states[point, target_at], trees.target[of_point[point], target], blocks > 0
        )
    products = torch.einsum("td,tkd->tk", gradient, d_hidden_states[point, :, target_at])
    of_target = log_p.new_zeros(len(of_point), trees.members.shape[2], 1 + blocks, dtype=torch.float64)
    of_target[point, target] = torch.cat([log_p[:, None], products], 1).double()
    of_turn = trees.members[of_point] @ of_target
    return of_turn[..., 0], of_turn[..., 1:]


def _target_log_p(model: QwenVL, hidden_states_TD: Tensor, ids_T: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """Evaluate the targets from the hidden states that enter the last layer's MLP, a bounded number at a time.

    Here derivatives are taken in reverse mode: the MLP and the vocabulary are wide, and one gradient serves all blocks.

    Args:
        model: student or teacher.
        hidden_states_TD: at the tokens that predict the targets, before the last layer's MLP and its norm.
        ids_T: the targets' token ids.
        with_gradient: whether the gradient is needed.

    Returns:
        The log-probability of each target [T] in nats, and its gradient in the hidden states [T, D], zero where none is
        needed.
    """
    targets_per_pass = max(1, _LOGITS_TOGETHER // model.config.get_text_config().vocab_size)
    parts = [
        _target_log_p_of_chunk(model, hidden_states, ids, with_gradient)
        for hidden_states, ids in zip(
            hidden_states_TD.split(targets_per_pass), ids_T.split(targets_per_pass), strict=True
        )
    ]
    log_p, gradient = (torch.cat(each) for each in zip(*parts, strict=True))
    return log_p, gradient


def _target_log_p_of_chunk(
    model: QwenVL, hidden_states_TD: Tensor, ids_T: Tensor, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    layer = model.model.language_model.layers[-1]
    with torch.set_grad_enabled(with_gradient):
        inputs = hidden_states_TD.detach().requires_grad_(with_gradient)
        outputs = inputs + passed(layer.mlp, passed(layer.post_attention_layernorm, inputs))
        normed = passed(model.model.language_model.norm, outputs)
        # The gathered weight itself: calling the head would run FSDP's hooks, which cast and gather once more.
        logits = functional.linear(normed, in_precision_of(normed, model.lm_head.weight))
        loss = functional.cross_entropy(logits.float(), ids_T, reduction="none")
        gradient = torch.autograd.grad(-loss.sum(), inputs)[0] if with_gradient else torch.zeros_like(inputs)
    return -loss.detach(), gradient
