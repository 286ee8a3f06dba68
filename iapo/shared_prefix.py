"""Attribution to the tokens of a prompt that several calls share, which passes the model once per path point.

The prompt's keys and values are kept, every call goes on from there, and each call's gradient goes back through the
prompt once. The same numbers as row by row, to rounding.

Shapes: L tokens, S prompts, P prompt tokens, R points of prompts, G calls of a prompt, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from iapo.embedding_path import EmbeddingPath
from iapo.shared_prompts import PathPoints, PromptBatch, SharedPrompt, SharedRows, padded

_Layers = list[tuple[Tensor, Tensor]]
"""Keys and values [rows, heads, tokens, channels], per layer."""


class SharedTokens(SharedRows):
    """The rows of a path, grouped by prompt; integrated per token."""

    @property
    def width(self) -> int:
        """L."""
        return int(self._path.ids_BL.shape[1])

    @torch.enable_grad()
    def _along(self, prompts: Sequence[SharedPrompt], at: PathPoints) -> tuple[Tensor, Tensor]:
        batch = _CallBatch(self._model, self._path, prompts, at)
        embeddings = batch.prompts.at(at).requires_grad_(True)
        memory = batch.memory(embeddings)
        difference = batch.prompts.difference_SPD[at.prompt].double()
        values = torch.zeros(len(at.prompt), batch.most, dtype=torch.float64, device=embeddings.device)
        products = torch.zeros(*values.shape, self.width, dtype=torch.float64, device=embeddings.device)
        for g in range(batch.most):
            # One call of every prompt: their gradients do not meet, so one backward pass serves all.
            points = batch.points_with(g)
            log_p = batch.continued(memory, points, g)
            values[points, g] = log_p.detach()
            # Gradients at the embeddings alone: parameters' .grad stays untouched.
            (gradient,) = torch.autograd.grad(log_p.sum(), embeddings, retain_graph=g < batch.most - 1)
            product = (gradient.double() * difference).sum(-1)
            for r in points:
                prompt = prompts[int(at.prompt[r])]
                products[r, g, prompt.columns[g]] = product[r, -prompt.length :]
        return values, products

    def _values(self, prompts: Sequence[SharedPrompt], at: PathPoints) -> Tensor:
        batch = _CallBatch(self._model, self._path, prompts, at)
        memory = batch.memory(batch.prompts.at(at))
        values = torch.zeros(len(at.prompt), batch.most, dtype=torch.float64, device=at.prompt.device)
        for g in range(batch.most):
            points = batch.points_with(g)
            values[points, g] = batch.continued(memory, points, g)
        return values


class _CallBatch:
    """Some prompts at some points of their paths, and the calls that continue them."""

    def __init__(self, model: Any, path: EmbeddingPath, prompts: Sequence[SharedPrompt], at: PathPoints) -> None:
        self._model, self._path, self.prompts = model, path, PromptBatch(path, prompts)
        self._of_point = at.prompt.tolist()
        self._calls = [list(zip(prompt.rows, prompt.tails, strict=True)) for prompt in prompts]
        self.most = max(map(len, self._calls))
        """Calls of a prompt."""

    def points_with(self, g: int) -> list[int]:
        """Points whose prompt has a ``g``-th call."""
        return [r for r, s in enumerate(self._of_point) if g < len(self._calls[s])]

    def memory(self, embeddings: Tensor) -> _Layers:
        """Keys and values of the prompts in every layer."""
        output = self._model(
            inputs_embeds=embeddings.to(self._model.dtype),
            position_ids=self.prompts.positions_3SP[:, self._of_point],
            attention_mask=self.prompts.mask_SP[self._of_point],
            use_cache=True,
            logits_to_keep=1,
        )
        return [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def continued(self, memory: _Layers, points: Sequence[int], g: int) -> Tensor:
        """Log-probability of the ``g``-th call of the prompt of some points: [points], nats, float64.

        Args:
            memory: of the prompts at all points.
            points: from :meth:`points_with`.
            g: which of a prompt's calls.
        """
        path, of_prompt = self._path, [self._of_point[r] for r in points]
        rows = torch.tensor([[self._calls[s][g][0]] for s in of_prompt], device=path.ids_BL.device)
        tails, tail_mask = padded([self._calls[s][g][1] for s in of_prompt], "right")
        mask = torch.cat([self.prompts.mask_SP[of_prompt], tail_mask], 1)
        cache = DynamicCache()
        for i, layer in enumerate(memory):
            keys, values = (part[list(points)] for part in layer)
            cache.update(keys, values, i)
        logits = self._plain_attention(
            # Nothing is predicted behind the last target.
            inputs_embeds=path.inputs_BLD[rows, tails[:, :-1]].to(self._model.dtype),
            position_ids=path.positions_3BL[:, rows, tails[:, :-1]],
            attention_mask=mask[:, :-1],
            past_key_values=cache,
            use_cache=True,
        ).logits
        ids = path.ids_BL[rows, tails[:, 1:]]
        target = path.target_BL[rows, tails[:, 1:]] & tail_mask[:, 1:].bool()
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="none")
        return -(loss.view(ids.shape).double() * target).sum(1)

    def _plain_attention(self, **inputs: Any) -> Any:
        """The model's output by plain attention: for a call's few queries, fused kernels take longer to go back."""
        config = self._model.config.get_text_config()
        usual, config._attn_implementation = config._attn_implementation, "eager"
        try:
            return self._model(**inputs)
        finally:
            config._attn_implementation = usual
