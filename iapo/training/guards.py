"""Checks that stop a run: images that do not match a rollout's tokens, a KL reference that is not the starting policy,
and a non-finite loss or gradient norm.

Put :class:`GuardMixin` in front of any ``GRPOTrainer`` of a Qwen2.5-VL whose dataset has the column ``example_id``. It
checks every turn, whichever engine generates it. Before a run stops, the batch, the names of its examples and the state
of the run are written to ``fault.json`` beside the checkpoints. The overridden methods are private to TRL, so its
version is pinned and a test asserts their signatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn
from transformers.trainer_utils import get_last_checkpoint

from iapo.artifacts.files import write_json
from iapo.models.processor import IMAGE_TOKEN, SUPPRESSED_TOKENS
from iapo.rollout.image_check import ImagesOutOfStep, check_images
from iapo.training.rollout_recorder import RolloutIndexMixin

if TYPE_CHECKING:
    from PIL.Image import Image

    from iapo.training.rollout_recorder import RolloutRow

_MAX_FIRST_KL = 1e-3
"""Largest KL to the reference before the first update, where policy and reference are one checkpoint."""

_MAX_NAMES = 8
"""Number of examples named in the error message; ``fault.json`` names all of them."""


class RolloutFault(RuntimeError):
    """A batch that must not be trained on; the message names its examples and the file with the run's state."""


class GuardMixin(RolloutIndexMixin):
    """Trainer mixin that stops a run at the first batch that must not be trained on, and names its examples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._example_ids: list[str] = []
        self._row_of_image: dict[int, int] = {}
        self._row_rewards: Tensor | None = None
        super().__init__(*args, **kwargs)
        tokenizer = self.processing_class.tokenizer  # type: ignore[union-attr]
        self._image_token: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._suppressed = set(tokenizer.convert_tokens_to_ids(list(SUPPRESSED_TOKENS)))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._example_ids = [row["example_id"] for row in inputs]
        self._row_of_image, self._row_rewards = {}, None
        return super()._generate_and_score_completions(inputs)

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: list[list[Image] | None] | None,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> tuple[Any, ...]:
        images_of_row = [row or [] for row in images or [None] * len(prompt_ids)]
        if not self._row_of_image:
            self._row_of_image = {id(row[0]): i for i, row in enumerate(images_of_row) if row}
        try:
            check_images(
                prompt_ids,
                [len(row) for row in images_of_row],
                multimodal_fields.get("image_grid_thw"),
                image_token=self._image_token,
                merge_size=self.processing_class.image_processor.merge_size,  # type: ignore[union-attr]
            )
            output: tuple[Any, ...] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
            self._check_sampled(output[0])
        except ImagesOutOfStep as found:
            # The second turn holds only some of the rows; a row's first image is the same object in both turns.
            rows = {i: self._row_of_image[id(images_of_row[i][0])] for i in found.token_ids if images_of_row[i]}
            self.stop_run(
                str(found),
                "Sampling must leave out image tokens, and whoever generates must use the trainer's processor: see "
                "docs/vllm.md, `Images out of step`.",
                list(rows.values()),
                token_ids={self._example_ids[row]: found.token_ids[i] for i, row in rows.items()},
            )
        return output

    def _check_sampled(self, completion_ids: Sequence[Sequence[int]]) -> None:
        sampled = {i: ids for i, ids in enumerate(completion_ids) if not self._suppressed.isdisjoint(ids)}
        if sampled:
            raise ImagesOutOfStep(f"found {len(sampled)} turns in which the policy itself wrote image tokens", sampled)

    def _calculate_rewards(self, inputs: list[RolloutRow], *args: Any) -> Tensor:
        rewards: Tensor = super()._calculate_rewards(inputs, *args)
        # TRL returns the rewards gathered from all processes; keep those of this one.
        self._row_rewards = rewards[len(inputs) * self.accelerator.process_index :][: len(inputs)]
        return rewards

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return TRL's loss plus any term that a subclass adds, and stop the run if it is not finite.

        Raises:
            RolloutFault: if the loss is not finite, or before the first update the policy is not the reference; no
                weight has been updated with it.
        """
        loss: Tensor = super().compute_loss(model, inputs, *args, **kwargs)
        self._check_reference(inputs)
        if not math.isfinite(loss.item()):
            rows = inputs["rollout_index"].tolist()
            self.stop_run(f"found a loss of {loss.item()}", _ADVICE, rows, advantages=inputs["advantages"].tolist())
        return loss

    def _check_reference(self, inputs: dict[str, Any]) -> None:
        if not self.beta or self.state.global_step:
            return
        kl = self._metrics["train"]["kl"][-1]
        if not abs(kl) <= _MAX_FIRST_KL:
            self.stop_run(
                f"found a KL of {kl:.3g} to the reference before the first update; expected 0, since both are the "
                "starting policy",
                "The reference's weights are not the checkpoint's: look at how `hardware.strategy` loads and shards "
                "it, or train without one (`train.kl_beta: 0`).",
                inputs["rollout_index"].tolist(),
            )

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> float | Tensor:
        norm: float | Tensor = super()._get_grad_norm(*args, **kwargs)
        # Here is the last chance to stop: the optimizer steps next, and a checkpoint may follow.
        if not math.isfinite(found := norm.item() if isinstance(norm, Tensor) else norm):
            self.stop_run(f"found a gradient of norm {found}", _ADVICE, range(len(self._example_ids)))
        return norm

    def stop_run(self, problem: str, advice: str, rows: Sequence[int], **facts: object) -> NoReturn:
        """Write the batch and the state of the run to ``fault.json``, and raise.

        Args:
            problem: what was found.
            advice: what the user should do.
            rows: indices of the affected rollouts in this process's batch; empty means all of them.
            facts: additional entries of the file.

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
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        raise RolloutFault(
            f"step {self.state.global_step}: {problem}. Examples: {', '.join(names[:_MAX_NAMES])}{more}. {advice} "
            f"The batch and the run's state are in {path}; the last checkpoint is {checkpoint or 'none yet'}."
        )


_ADVICE = (
    "No weight was changed by it, and the same command goes on from the last checkpoint. If it comes back, look at the "
    "examples' rewards and figures, then lower `train.learning_rate`."
)
