"""The ratio of the policy's to vLLM's probabilities is TRL's own, without TRL's pass for it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from iapo.config.method import TrainConfig
from iapo.config.schema import Config
from iapo.rollout.vllm import sampling_arguments
from iapo.training.sampling_ratio import sampling_ratio
from tests.rollout.vllm.conftest import Recorded

pytestmark = pytest.mark.gpu_run

MODES = ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate")


class Counted(Recorded):
    """Counts passes over rollouts, and keeps the ratios that losses were multiplied by."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.passes, self.ratios = 0, list[Tensor]()

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        self.passes += 1
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        self.ratios.append(inputs["importance_sampling_ratio"])
        return loss


class Trl(Counted):
    """TRL's own pass and ratio."""

    def _is_trained_as_written(self) -> bool:
        return False


@pytest.mark.parametrize("mode", MODES)
def test_the_update_s_own_pass_gives_trl_s_ratio_and_policy(
    colocated: dict[str, Any], engine: Any, make: Any, mode: str
) -> None:
    settings = TrainConfig(rollouts="vllm_colocate", max_completion_length=60)
    arguments = sampling_arguments(Config(profile="test"), settings, engine.processor, prompt_tokens=100)
    # Small enough that some ratios lie outside: the engine's probabilities leave out four words.
    arguments |= {"vllm_importance_sampling_mode": mode, "vllm_importance_sampling_clip_max": 0.999}
    trained = {}
    for kind in (Counted, Trl):
        trained[kind] = make(kind, **arguments)
        trained[kind].train()
    ours, its = trained[Counted], trained[Trl]
    assert (ours.passes, its.passes) == (2, 4)
    assert ours.vllm_importance_sampling_correction
    ratios = torch.cat([ratio.flatten() for ratio in its.ratios])
    assert (ratios.min() < 0.9985) and len(ratios.unique()) > 2
    for found, wanted in zip(ours.ratios, its.ratios, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(ours.model.parameters(), its.model.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_token_without_a_probability_and_tokens_of_others_leave_the_ratio_alone() -> None:
    policy, sampler = torch.tensor([[0.0, -1.0, -2.0]]), torch.tensor([[-1.0, math.nan, 5.0]])
    found = sampling_ratio(policy, sampler, torch.tensor([[1, 1, 0]]), "sequence_truncate", (None, None))
    assert found.tolist() == [[pytest.approx(math.e)]]
    found = sampling_ratio(policy, sampler, torch.tensor([[1, 1, 0]]), "token_mask", (0.5, 2.0))
    assert found.tolist() == [[0.0, 1.0, 1.0]]
