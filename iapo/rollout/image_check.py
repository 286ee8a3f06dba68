"""The check that a batch's image tokens match its images.

A mismatch does not fail by itself: the model would read features of the wrong image and train on them silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from torch import Tensor


class ImagesOutOfStep(ValueError):
    """A mismatch between the images of a batch and the image tokens that stand for them."""

    def __init__(self, problem: str, token_ids: Mapping[int, Sequence[int]] | None = None) -> None:
        super().__init__(problem)
        self.token_ids = {row: list(ids) for row, ids in (token_ids or {}).items()}
        """Batch row → the token ids at fault; empty if the fault belongs to no single row."""


def image_runs(ids: Sequence[int], image_token: int) -> list[int]:
    """Return the lengths of the consecutive runs of image tokens in a sequence of token ids, in order."""
    return [len(list(run)) for token, run in groupby(ids) if token == image_token]


def check_read(read: Sequence[Sequence[int]], given: Sequence[Sequence[int]], image_token: int) -> None:
    """Check that an engine which expands images itself read the token ids that it should have.

    Args:
        read: [B] token ids of the prompts that it read.
        given: [B] those that the loss, or transformers, reads.
        image_token: id of the image token.

    Raises:
        ImagesOutOfStep: if any differ.
    """
    wrong = {row: ids for row, (ids, wanted) in enumerate(zip(read, given, strict=True)) if list(ids) != list(wanted)}
    if wrong:
        row, ids = next(iter(wrong.items()))
        found, expected = image_runs(ids, image_token), image_runs(given[row], image_token)
        raise ImagesOutOfStep(f"found vLLM reading image tokens in runs of {found}, the loss has {expected}", wrong)


def check_images(
    prompt_ids: Sequence[Sequence[int]],
    image_counts: Sequence[int],
    image_grid_thw: Tensor | None,
    *,
    image_token: int,
    merge_size: int,
) -> None:
    """Check that every prompt has one run of image tokens per image, of the length that the image's size gives.

    Args:
        prompt_ids: [B] token ids of each prompt, image tokens expanded.
        image_counts: [B] number of images in each prompt.
        image_grid_thw: [images, 3] patches in time, height and width; None if no prompt has an image.
        image_token: id of the image token.
        merge_size: side length, in patches, of the square that is merged into one image token.

    Raises:
        ImagesOutOfStep: if the number of images or the length of a run differs.
    """
    grids = [] if image_grid_thw is None else image_grid_thw.prod(-1).tolist()
    if len(grids) != sum(image_counts):
        raise ImagesOutOfStep(f"found pixels of {len(grids)} images for {sum(image_counts)} images in the prompts")
    lengths = iter(grid // merge_size**2 for grid in grids)
    expected = [[next(lengths) for _ in range(count)] for count in image_counts]
    found = [image_runs(ids, image_token) for ids in prompt_ids]
    rows = [i for i, (runs, tokens) in enumerate(zip(found, expected, strict=True)) if runs != tokens]
    if rows:
        raise ImagesOutOfStep(
            f"found image tokens in runs of {found[rows[0]]}, where the images give {expected[rows[0]]}",
            {i: prompt_ids[i] for i in rows},
        )
