"""Passes of the trainer without the padding that no rollout of a micro-batch needs.

TRL pads all rollouts of a step to its longest, and passes a micro-batch of one at that length: on real data half of the
arithmetic would be padding's. The overridden method is private to TRL, so its version is pinned and a test asserts its
signature.

B: rollouts. L: tokens of prompt and completion, padded on both sides. C: tokens of the completion, padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from iapo.training.rollout_recorder import TurnMixin

_BY_ROW = ("token_type_ids", "mm_token_type_ids")
"""Fields [B, L] with an entry per token."""

Scores = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probabilities [B, C], their entropies [B, C] and the load-balancing loss, as TRL returns them."""


class TrimmedPassMixin(TurnMixin):
    """Trainer mixin that cuts each micro-batch to its own rollouts' tokens and logs the padding before and after."""

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **fields: Any,
    ) -> Scores:
        size = batch_size or len(input_ids)
        parts: list[Scores] = []
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            kept, cut = attended_columns(attention_mask[rows])
            mask = attention_mask[rows, kept]
            self.record("passes/padding_untrimmed", 1 - attention_mask[rows].float().mean().item())
            self.record("passes/padding", 1 - mask.float().mean().item())
            scores: Scores = super()._get_per_token_logps_and_entropies(
                model, input_ids[rows, kept], mask, logits_to_keep - cut, **_of_rows(fields, rows, kept)
            )
            parts.append(
                (_widened(scores[0], cut), scores[1] if scores[1] is None else _widened(scores[1], cut), scores[2])
            )
        logps, entropies, aux_losses = zip(*parts, strict=True)
        return (
            torch.cat(logps),
            None if entropies[0] is None else torch.cat(entropies),
            None if aux_losses[0] is None else torch.stack(aux_losses).mean(),
        )


def attended_columns(attention_mask: Tensor) -> tuple[slice, int]:
    """Return the columns from the first to the last that some row attends to, and how many are cut off on the right.

    Args:
        attention_mask: [B, L], 0 for padding.
    """
    used = attention_mask.any(0).nonzero()
    first, last = int(used[0]), int(used[-1])
    return slice(first, last + 1), attention_mask.shape[1] - last - 1


def _of_rows(fields: Mapping[str, Any], rows: slice, columns: slice) -> dict[str, Any]:
    """A micro-batch's part of the fields that TRL passes on: per token, per image, or for all."""
    found = dict(fields)
    for name in _BY_ROW:
        if found.get(name) is not None:
            found[name] = found[name][rows, columns]
    if (counts := found.get("num_images")) is None:
        return found
    ends = [0, *accumulate(counts)]
    first, last = ends[rows.start], ends[min(rows.stop, len(counts))]
    found["num_images"] = counts[rows]
    if (grids := found.get("image_grid_thw")) is not None:
        patches = [0, *accumulate(grids.prod(-1).tolist())]
        found["image_grid_thw"] = grids[first:last]
        found["pixel_values"] = found["pixel_values"][patches[first] : patches[last]]
    return found


def _widened(scores: Tensor, columns: int) -> Tensor:
    """Put zeros where the cut columns of the completion were."""
    return functional.pad(scores, (0, columns))
