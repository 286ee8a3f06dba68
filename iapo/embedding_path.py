"""The path that attribution walks: merged input embeddings, their baseline, and the log-probability along it.

Shapes: B rows, L tokens, D channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from iapo.config_method import Baseline
from iapo.sharding import gathered_root


@dataclass(frozen=True)
class EmbeddingPath:
    """Everything about the rows that does not move along the path."""

    inputs_BLD: Tensor
    difference_BLD: Tensor
    """Input minus baseline; zero wherever a token is no feature."""
    positions_3BL: Tensor
    attention_BL: Tensor
    ids_BL: Tensor
    target_BL: Tensor
    blocks_BL: Tensor

    def __len__(self) -> int:
        return len(self.ids_BL)

    def rows(self, index: Tensor) -> EmbeddingPath:
        """Some rows, one perhaps several times, without the columns that are padding in all of them."""
        kept = slice(*self.span(index))
        return EmbeddingPath(
            self.inputs_BLD[index, kept],
            self.difference_BLD[index, kept],
            self.positions_3BL[:, index, kept],
            self.attention_BL[index, kept],
            self.ids_BL[index, kept],
            self.target_BL[index, kept],
            self.blocks_BL[index, kept],
        )

    def span(self, index: Tensor) -> tuple[int, int]:
        """First column that is not padding in all of these rows, and one past the last."""
        used = self.attention_BL[index].any(0).nonzero()[:, 0]
        return int(used[0]), int(used[-1]) + 1

    def margins(self, index: Tensor) -> tuple[int, int]:
        """How many columns :meth:`rows` cuts off before and after."""
        first, end = self.span(index)
        return first, self.ids_BL.shape[1] - end


@torch.no_grad()
def embedding_path(model: Any, batch: Mapping[str, Tensor], baseline: Baseline) -> EmbeddingPath:
    """Merge images into embeddings and lay the path from the baseline to them.

    The vision tower runs once per image in ``pixel_values``, however many rows show it.

    Args:
        model: a ``Qwen2_5_VLForConditionalGeneration``, sharded or not.
        batch: as :func:`iapo.attribution.attribute` takes it, checked.
        baseline: where the path starts.
    """
    ids = batch["input_ids"]
    is_image = (ids == model.config.image_token_id)[..., None]
    with gathered_root(model):
        inputs = model.get_input_embeddings()(ids).float()
        start = _text_baseline(model, baseline).expand_as(inputs)
        if (grid := batch.get("image_grid_thw")) is not None:
            order = batch.get("image_rows", torch.arange(len(grid), device=grid.device))
            pixels = batch["pixel_values"]
            images = _image_features(model, pixels, grid)
            shown = [images[i] for i in order.tolist()]
            check_image_tokens(int(is_image.sum()), sum(len(image) for image in shown))
            inputs = inputs.masked_scatter(is_image, torch.cat(shown).float())
            blank = _image_baseline(model, images, pixels, grid, baseline)
            if blank is not None:
                start = start.masked_scatter(is_image, torch.cat([blank[i] for i in order.tolist()]).float())
            grid = grid[order]
    is_feature = (batch["block_ids"] >= 0)[..., None]
    return EmbeddingPath(
        inputs,
        (inputs - start) * is_feature,
        _positions(model, batch, grid),
        batch["attention_mask"],
        ids,
        batch["target_mask"].bool(),
        batch["block_ids"].long(),
    )


def _positions(model: Any, batch: Mapping[str, Tensor], grid: Tensor | None) -> Tensor:
    """M-RoPE positions [3, B, L]: without explicit ones, embeddings alone would silently get one-dimensional ones.

    Args:
        model: the model.
        batch: the rows.
        grid: [images shown, 3], in row order.
    """
    kinds, attention = batch["mm_token_type_ids"], batch["attention_mask"]
    chosen, of_row = torch.arange(len(kinds), device=kinds.device), None
    if {"prompt_rows", "image_counts"} <= batch.keys():
        # transformers walks the rows one by one; calls of one prompt that are equally long have equal positions.
        alike = torch.cat([batch["prompt_rows"][:, None], attention], 1)
        unique, of_row = alike.unique(dim=0, return_inverse=True)
        chosen = torch.full((len(unique),), len(kinds), device=kinds.device)
        chosen = chosen.scatter_reduce(0, of_row, torch.arange(len(kinds), device=kinds.device), "amin")
        if grid is not None:
            shown = torch.arange(len(kinds), device=kinds.device).repeat_interleave(batch["image_counts"])
            grid = torch.cat([grid[shown == row] for row in chosen])
    positions, _ = model.model.get_rope_index(
        batch["input_ids"][chosen], kinds[chosen], image_grid_thw=grid, attention_mask=attention[chosen]
    )
    return positions if of_row is None else positions[:, of_row]


def target_log_probability(model: Any, path: EmbeddingPath, embeddings_BLD: Tensor) -> Tensor:
    """log p(target tokens | what precedes them), [B], nats, float64."""
    if not path.target_BL.any():
        return embeddings_BLD.double().sum((1, 2)) * 0
    first = int(path.target_BL.any(0).nonzero()[0])
    kept = embeddings_BLD.shape[1] - first + 1
    logits = model(
        inputs_embeds=embeddings_BLD.to(model.dtype),
        position_ids=path.positions_3BL,
        attention_mask=path.attention_BL,
        use_cache=False,
        logits_to_keep=kept,
    ).logits[:, :-1]
    chosen = functional.cross_entropy(logits.float().flatten(0, 1), path.ids_BL[:, first:].flatten(), reduction="none")
    return -(chosen.view(len(path), -1).double() * path.target_BL[:, first:]).sum(-1)


def _image_features(model: Any, pixels: Tensor, grid: Tensor) -> list[Tensor]:
    """[tokens, D] per image."""
    return list(model.model.get_image_features(pixels, grid, return_dict=True).pooler_output)


def _text_baseline(model: Any, baseline: Baseline) -> Tensor:
    """[D]: what stands in for a token."""
    weights: Tensor = model.get_input_embeddings().weight.float()
    if baseline == "zero":
        return torch.zeros_like(weights[0])
    if baseline == "mean_embedding":
        return weights.mean(0)
    pad = weights[_pad_token(model)]
    if not pad.any():
        warnings.warn(
            "the pad token's embedding is zero: no number of points will make the attribution complete; "
            "use a trained model or give the pad token an embedding",
            RuntimeWarning,
            stacklevel=5,
        )
    return pad


def _image_baseline(
    model: Any, images: list[Tensor], pixels: Tensor, grid: Tensor, baseline: Baseline
) -> list[Tensor] | None:
    """What stands in for each image's tokens; None where the text's baseline does."""
    if baseline in ("pad_image_mean", "mean_embedding"):
        return [image.mean(0, keepdim=True).expand_as(image) for image in images]
    if baseline == "flat_image":
        # Processors centre pixels, so zero is a plain grey.
        return _image_features(model, torch.zeros_like(pixels), grid)
    return None


def _pad_token(model: Any) -> int:
    for config in (model.config.get_text_config(), model.generation_config):
        if isinstance(config.pad_token_id, int):
            return config.pad_token_id
    raise ValueError("the model names no pad token; set `pad_token_id` in its configuration")


def check_image_tokens(tokens: int, features: int) -> None:
    """Raise unless a batch's image tokens are as many as its images make."""
    if tokens != features:
        raise ValueError(
            f"input_ids hold {tokens} image tokens, the images make {features}; pass every row's images, in order"
        )
