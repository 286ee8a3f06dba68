"""What stops a run: a rollout whose images are out of step with its tokens, a loss or a gradient that is no number.

``GuardMixin`` goes in front of any ``GRPOTrainer`` of a Qwen2.5-VL whose dataset has the column ``example_id``, and
asks around every turn, whoever generates it. What it finds is written to ``fault.json`` beside the checkpoints, with
the examples' names and the run's state, before the run stops. The overridden methods are private to TRL, so the version
is pinned and a test asserts their signatures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint

from iapo.processor import IMAGE_TOKEN, UNSAMPLED_TOKENS
from iapo.provenance import write_json

if TYPE_CHECKING:
    from trl import GRPOTrainer as _Trainer
else:
    _Trainer = object

_MOST_NAMES = 8
"""Examples that a message names; the file names all."""


class RolloutFault(RuntimeError):
    """A batch that must not be trained on. The message names its examples and the file with the run's state."""


class ImagesOutOfStep(ValueError):
    """The images of some rows and their tokens disagree."""

    def __init__(self, problem: str, token_ids: Mapping[int, Sequence[int]] | None = None) -> None:
        super().__init__(problem)
        self.token_ids = {row: list(ids) for row, ids in (token_ids or {}).items()}
        """Row of the turn → the ids that it was found in; empty where it is not one row's doing."""


def image_runs(ids: Sequence[int], image_token: int) -> list[int]:
    """The lengths of the runs of image tokens in a sequence of token ids, in order."""
    return [len(list(run)) for token, run in groupby(ids) if token == image_token]


def check_images(
    prompt_ids: Sequence[Sequence[int]],
    image_counts: Sequence[int],
    image_grid_thw: Tensor | None,
    *,
    image_token: int,
    merge_size: int,
) -> None:
    """Hold every prompt's image tokens against the images that are shown with it.

    Args:
        prompt_ids: [B] token ids, image tokens expanded.
        image_counts: [B] images of each.
        image_grid_thw: [images, 3] patches in time, height and width; None where no prompt has an image.
        image_token: its id.
        merge_size: patches along each side of what becomes one token.

    Raises:
        ImagesOutOfStep: where a prompt has other runs of image tokens than its images give.
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


class GuardMixin(_Trainer):
    """Stops a run at the first batch that must not be trained on, and says which one it was."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._example_ids: list[str] = []
        self._row_of_image: dict[int, int] = {}
        self._row_rewards: Tensor | None = None
        super().__init__(*args, **kwargs)
        tokenizer = self.processing_class.tokenizer  # type: ignore[union-attr]
        self._image_token: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._unsampled = set(tokenizer.convert_tokens_to_ids(list(UNSAMPLED_TOKENS)))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self._example_ids = [row["example_id"] for row in inputs]
        self._row_of_image, self._row_rewards = {}, None
        output = super()._generate_and_score_completions(inputs)
        # TRL shuffles the rollouts and splits them into smaller batches; this goes with them.
        output["rollout_index"] = torch.arange(len(inputs))
        return output

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: list[list[Any] | None] | None,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        shown = [row or [] for row in images or [None] * len(prompt_ids)]
        if not self._row_of_image:
            self._row_of_image = {id(row[0]): i for i, row in enumerate(shown) if row}
        try:
            check_images(
                prompt_ids,
                [len(row) for row in shown],
                multimodal_fields.get("image_grid_thw"),
                image_token=self._image_token,
                merge_size=self.processing_class.image_processor.merge_size,  # type: ignore[union-attr]
            )
            output = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
            self._check_sampled(output[0])
        except ImagesOutOfStep as found:
            # The second turn is a part of the rows; a row's first image is the same object in both.
            rows = {i: self._row_of_image[id(shown[i][0])] for i in found.token_ids if shown[i]}
            self.stop_run(
                str(found),
                "Sampling must leave out image tokens, and whoever generates must use the trainer's processor: see "
                "docs/vllm.md, `Images out of step`.",
                list(rows.values()),
                token_ids={self._example_ids[row]: found.token_ids[i] for i, row in rows.items()},
            )
        return output

    def _check_sampled(self, completion_ids: Sequence[Sequence[int]]) -> None:
        sampled = {i: ids for i, ids in enumerate(completion_ids) if not self._unsampled.isdisjoint(ids)}
        if sampled:
            raise ImagesOutOfStep(f"found {len(sampled)} turns in which the policy itself wrote image tokens", sampled)

    def _calculate_rewards(self, inputs: Any, *args: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, *args)
        # TRL has gathered them from all processes.
        self._row_rewards = rewards[len(inputs) * self.accelerator.process_index :][: len(inputs)]
        return rewards

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's, with whatever a subclass adds; a loss that is no number never reaches the weights."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if not math.isfinite(loss.item()):
            rows = inputs["rollout_index"].tolist()
            self.stop_run(f"found a loss of {loss.item()}", _NO_NUMBER, rows, advantages=inputs["advantages"].tolist())
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        # The optimizer steps next, and its weights may be in the next checkpoint.
        if not math.isfinite(found := norm.item() if isinstance(norm, Tensor) else norm):
            self.stop_run(f"found a gradient of norm {found}", _NO_NUMBER, range(len(self._example_ids)))
        return norm

    def stop_run(self, problem: str, advice: str, rows: Sequence[int], **facts: Any) -> NoReturn:
        """Write down the batch and the run's state, and stop.

        Args:
            problem: what was found.
            advice: what to do.
            rows: of this process's batch, the rollouts that it was found in; empty means all.
            facts: further figures for the file.

        Raises:
            RolloutFault: always.
        """
        folder = Path(self.args.output_dir or ".")
        checkpoint = get_last_checkpoint(str(folder)) if folder.is_dir() else None
        names = list(dict.fromkeys(self._example_ids[i] for i in rows or range(len(self._example_ids))))
        index = self.accelerator.process_index
        path = folder / (f"fault-{index}.json" if index else "fault.json")
        state = {
            "problem": problem,
            "step": self.state.global_step,
            "process": index,
            "examples": names,
            "batch": self._example_ids,
            "rows": list(rows),
            "reward_names": self.reward_func_names,
            "rewards": None if self._row_rewards is None else self._row_rewards.tolist(),
            "last_checkpoint": checkpoint,
            "seed": self.args.seed,
            **facts,
        }
        write_json(path, state)
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        raise RolloutFault(
            f"step {self.state.global_step}: {problem}. Examples: {', '.join(names[:_MOST_NAMES])}{more}. {advice} "
            f"The batch and the run's state are in {path}; the last checkpoint is {checkpoint or 'none yet'}."
        )


_NO_NUMBER = (
    "No weight was changed by it, and the same command goes on from the last checkpoint. If it comes back, look at the "
    "examples' rewards and figures, then lower `train.learning_rate`."
)
