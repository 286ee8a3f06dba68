"""What distilling methods need beside the policy's own update: the teacher's weights and passes, or its calls."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from baselines import METHODS
from iapo.config.schema import load_config
from iapo.config.sources import HubConfig
from iapo.jobs import memory
from iapo.jobs.estimate import estimate, merge_configs
from iapo.jobs.lengths import Distillation, Lengths
from iapo.jobs.model_sizes import model_size
from iapo.jobs.stages import Stage
from iapo.jobs.times import distillation_flops, update_flops
from iapo.training.distillation_mixin import reverse_kl

PAPER = yaml.safe_load((Path(__file__).parents[2] / "config/paper.yaml").read_text())


def stages(*methods: str, **changes: Any) -> dict[str, Stage]:
    config = load_config(merge_configs([PAPER, {"methods": list(methods), "tuning": {"factors": [1.0]}}, changes]))
    return {stage.name: stage for stage in estimate(config, METHODS).stages}


def test_the_teacher_s_probabilities_cost_its_weights_and_a_pass_of_it() -> None:
    found = stages("vtool_r1", "teacher_kl")
    plain, distilling = found["train methods"], found["train methods with distillation"]
    assert distilling.memory_gb > plain.memory_gb + 2 * 8.29 and distilling.hours > 1.1 * plain.hours
    assert distilling.least_hours > plain.least_hours and distilling.host_gb > plain.host_gb
    assert "cache the teacher's attribution" not in found


def test_the_teacher_s_calls_cost_its_cache_and_passes_of_the_policy() -> None:
    found = stages("vtool_r1", "teacher_calls")
    plain, distilling = found["train methods"], found["train methods with distillation"]
    assert distilling.memory_gb > plain.memory_gb and distilling.hours > plain.hours
    more = stages("teacher_calls", teacher={"sampled_calls": 9})["train methods with distillation"]
    assert more.hours > distilling.hours and more.memory_gb > distilling.memory_gb
    # It compares no attributions, so nobody asks whether the teacher's are informative.
    assert (
        found["cache the teacher's attribution"].jobs == PAPER["hardware"]["cache_jobs"]
        and "ask whether it is informative" not in found
    )


def test_the_passes_by_hand() -> None:
    size, teacher = (model_size(load_config(PAPER).pretrained_models[i].source, HubConfig()) for i in (0, 1))
    lengths = Lengths(image=1000, turn=256, completion=1512)
    own = distillation_flops(size, Distillation(calls=5), 1, lengths, 6, 6)
    # As the update's, without the edited figure and the answer.
    tokens, patches = 2500 + 256, 4000
    assert own == 6 * (size.language * tokens + size.vision * patches) < update_flops(size, 1, lengths)
    asked = distillation_flops(size, Distillation(teacher=teacher), 1, lengths, 6, 6)
    assert asked - own == 2 * (teacher.language * tokens + teacher.vision * patches)
    assert Distillation(calls=5).turns(8, 64) == 40 and Distillation(calls=5).turns(8, 2) == 10
    assert Distillation(teacher=teacher).turns(8, 64) == 64


def test_a_divergence_holds_the_bytes_of_the_real_one() -> None:
    student = torch.randn(4, 5000, dtype=torch.bfloat16, requires_grad=True)
    held: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(reverse_kl(student, torch.randn(4, 5000, dtype=torch.bfloat16)))
    # Both logits, a gradient and the teacher's log-probabilities besides.
    measured = sum(held.values()) / student.numel() + 2 + 2 + 4 + 4
    assert measured == pytest.approx(memory._DIVERGENCE_BYTES, rel=0.01)
