"""The straight path from baseline input to input in embedding space, and the target's log-probability on it.

The path is laid through the merged embeddings, where image features already stand at the image tokens, so that text
and image are attributed alike. It depends on the model's embeddings and vision tower alone; the decoder runs later,
once per point.

Shapes: B rows, L tokens, D channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from iapo.config.method import Baseline
from iapo.models.fsdp import gathered_root
from iapo.models.interfaces import QwenVL


@dataclass(frozen=True)
class EmbeddingPath:
    """A batch of rows with the two ends of each row's path; at α it is at ``inputs − (1 − α) · difference``."""

    inputs_BLD: Tensor
    """Merged input embeddings, fp32: the path's end."""
    difference_BLD: Tensor
    """Input minus baseline, fp32; zero at tokens of no block, which stay fixed along the path."""
    positions_3BL: Tensor
    """M-RoPE positions: temporal, height, width."""
    attention_BL: Tensor
    """1 at tokens, 0 at padding."""
    ids_BL: Tensor
    """Token ids."""
    target_BL: Tensor
    """Bool: tokens whose log-probability is attributed."""
    blocks_BL: Tensor
    """Block of each token, -1 for none."""

    def __len__(self) -> int:
        return len(self.ids_BL)

    def rows(self, index: Tensor) -> EmbeddingPath:
        """Select rows, repeats allowed, and drop the columns that are padding in all of them."""
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
        """Return the first column that is not padding in all of these rows, and one past the last."""
        used = self.attention_BL[index].any(0).nonzero()[:, 0]
        return int(used[0]), int(used[-1]) + 1

    def margins(self, index: Tensor) -> tuple[int, int]:
        """Return how many columns :meth:`rows` drops on the left and on the right."""
        first, end = self.span(index)
        return first, self.ids_BL.shape[1] - end


@torch.no_grad()
def embedding_path(model: QwenVL, batch: Mapping[str, Tensor], baseline: Baseline) -> EmbeddingPath:
    """Embed the rows, merge the image features into them, and build the path from the baseline.

    The vision tower runs once per image in ``pixel_values``, however many rows show it.

    Args:
        model: student or teacher, sharded or not.
        batch: as :func:`iapo.attribution.api.attribute` takes it, its shapes checked.
        baseline: the baseline input at which the path starts.

    Returns:
        The path of all rows, on the model's device.

    Raises:
        ValueError: where image tokens and images do not match, or the model names no pad token.
    """
    ids = batch["input_ids"]
    is_image = (ids == model.config.image_token_id)[..., None]
    with gathered_root(model):
        # The gathered weight itself: the module's call would end with FSDP giving up what was gathered.
        inputs = functional.embedding(ids, cast(Tensor, model.get_input_embeddings().weight)).float()
        start = _text_baseline(model, baseline).expand_as(inputs)
        if (grid := batch.get("image_grid_thw")) is not None:
            order = batch.get("image_rows", torch.arange(len(grid), device=grid.device))
            pixels = batch["pixel_values"]
            images = _image_features(model, pixels, grid)
            shown = [images[i] for i in order.tolist()]
            check_image_tokens(int(is_image.sum()), sum(len(image) for image in shown))
            inputs = inputs.masked_scatter(is_image, torch.cat(shown).float())
            image_baseline = _image_baseline(model, images, pixels, grid, baseline)
            if image_baseline is not None:
                start = start.masked_scatter(is_image, torch.cat([image_baseline[i] for i in order.tolist()]).float())
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


def _positions(model: QwenVL, batch: Mapping[str, Tensor], grid: Tensor | None) -> Tensor:
    """Return M-RoPE positions [3, B, L].

    They must be passed explicitly: from embeddings alone the model cannot tell where images are, and silently falls
    back to one-dimensional positions.

    Args:
        model: gives the rule.
        batch: the rows.
        grid: ``image_grid_thw`` of the images shown, [images shown, 3], in row order.
    """
    kinds, attention = batch["mm_token_type_ids"], batch["attention_mask"]
    chosen, of_row = torch.arange(len(kinds), device=kinds.device), None
    if {"prompt_rows", "image_counts"} <= batch.keys():
        # transformers loops over rows in Python. Rows with the same prompt and attention mask have the same positions,
        # so they are computed for the first row of each kind.
        kind_of_row = torch.cat([batch["prompt_rows"][:, None], attention], 1)
        unique, of_row = kind_of_row.unique(dim=0, return_inverse=True)
        chosen = torch.full((len(unique),), len(kinds), device=kinds.device)
        chosen = chosen.scatter_reduce(0, of_row, torch.arange(len(kinds), device=kinds.device), "amin")
        if grid is not None:
            image_rows = torch.arange(len(kinds), device=kinds.device).repeat_interleave(batch["image_counts"])
            grid = torch.cat([grid[image_rows == row] for row in chosen])
    positions, _ = model.model.get_rope_index(
        batch["input_ids"][chosen], kinds[chosen], image_grid_thw=grid, attention_mask=attention[chosen]
    )
    return positions if of_row is None else positions[:, of_row]


def target_log_probability(model: QwenVL, path: EmbeddingPath, embeddings_BLD: Tensor) -> Tensor:
    """Return log p(target tokens | all tokens before them) of each row, summed over its target tokens.

    Args:
        model: student or teacher.
        path: of these rows: positions, attention mask, token ids and targets.
        embeddings_BLD: their input embeddings, at any point of the path.

    Returns:
        [B] nats, float64, differentiable in the embeddings.
    """
    if not path.target_BL.any():
        # Zero, yet part of the autograd graph.
        return embeddings_BLD.double().sum((1, 2)) * 0
    first = int(path.target_BL.any(0).nonzero()[0])
    # Logits from the position that predicts the first target.
    kept = embeddings_BLD.shape[1] - first + 1
    logits = model(
        inputs_embeds=embeddings_BLD.to(model.dtype),
        position_ids=path.positions_3BL,
        attention_mask=path.attention_BL,
        use_cache=False,
        logits_to_keep=kept,
    ).logits[:, :-1]
    loss = functional.cross_entropy(logits.float().flatten(0, 1), path.ids_BL[:, first:].flatten(), reduction="none")
    return -(loss.view(len(path), -1).double() * path.target_BL[:, first:]).sum(-1)


def _image_features(model: QwenVL, pixels: Tensor, grid: Tensor) -> list[Tensor]:
    """Run the vision tower: [image tokens, D] per image."""
    return list(model.model.get_image_features(pixels, grid, return_dict=True).pooler_output)


def _text_baseline(model: QwenVL, baseline: Baseline) -> Tensor:
    """Return the baseline embedding [D] that replaces every token of a block."""
    weights = cast(Tensor, model.get_input_embeddings().weight).float()
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
    model: QwenVL, images: list[Tensor], pixels: Tensor, grid: Tensor, baseline: Baseline
) -> list[Tensor] | None:
    """Return the baseline embeddings of each image's tokens; None where they are the text's."""
    if baseline in ("pad_image_mean", "mean_embedding"):
        return [image.mean(0, keepdim=True).expand_as(image) for image in images]
    if baseline == "flat_image":
        # Processors normalise pixels, so zero is the mean colour, a plain grey.
        return _image_features(model, torch.zeros_like(pixels), grid)
    return None


def _pad_token(model: QwenVL) -> int:
    for config in (model.config.get_text_config(), model.generation_config):
        if isinstance(config.pad_token_id, int):
            return config.pad_token_id
    raise ValueError("the model names no pad token; set `pad_token_id` in its configuration")


def check_image_tokens(tokens: int, features: int) -> None:
    """Raise ValueError unless the batch has exactly as many image tokens as its images have features."""
    if tokens != features:
        raise ValueError(
            f"input_ids hold {tokens} image tokens, the images make {features}; pass every row's images, in order"
        )
