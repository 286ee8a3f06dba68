"""Two processes give the block sums of one, and wait for each other where one has no call at all."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from iapo.alignment.divergence import total_variation
from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch, example_inputs
from iapo.config.schema import AttributionConfig
from iapo.data.prompts import prompt_messages
from iapo.models.loading import save_model
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import ToolTurn, turn_ids
from iapo.tools.parsing import render_call
from iapo.types import Example, ToolCall

SETTINGS = AttributionConfig(n_steps=4, tolerance=0.05, tokens_per_forward=300)
WORKER = """
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from iapo.attribution import api
from iapo.config.method import AttributionConfig
from iapo.models.loading import load_model
from iapo.training.attribution_mixin import AttributionMixin

directory, how, case = sys.argv[1:]
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True, mixed_precision="bf16" if how == "ddp bfloat16" else "no")
model, processor = load_model(Path(directory) / "model")
if how.startswith("fsdp2"):
    # accelerate shards on GPUs only; these are the calls that it makes there.
    mesh = init_device_mesh("cpu", (2,))
    low = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if how == "fsdp2 bfloat16" else MixedPrecisionPolicy()
    for layer in [*model.model.language_model.layers, *model.model.visual.blocks]:
        fully_shard(layer, mesh=mesh, mp_policy=low)
    fully_shard(model, mesh=mesh, mp_policy=low)
    if how == "fsdp2 by rows":
        api.is_sharded = lambda model: False
turns = torch.load(f"{directory}/turns.pt", weights_only=False)
rank = accelerator.process_index
if case == "uneven":
    mine = turns[:5] if rank == 0 else turns[5:]
else:
    mine = turns if rank == 0 else []


class Probe(AttributionMixin):
    def __init__(self):
        self.accelerator, self.model = accelerator, model
        self._tokenizer, self.tool_turns = processor.tokenizer, turns
        self._attribution = AttributionConfig(n_steps=4, tolerance=0.05, tokens_per_forward=300)
        self._alignment = SimpleNamespace(smoothing=1e-3, aggregation="signed")

    def record(self, name, value):
        pass


result = Probe()._attribute_turns(mine)
assert result is None or result.l1.isnan().all() == (how != "fsdp2 by rows")
assert all(isinstance(each, torch.distributed.tensor.DTensor) for each in model.parameters()) == (how[:3] != "ddp")
torch.save(None if result is None else result.signed, f"{directory}/{how}-{case}-{rank}.pt")
accelerator.wait_for_everyone()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any], test_examples: list[Example]) -> Path:
    """A saved model and six turns of three prompts."""
    directory = tmp_path_factory.mktemp("world")
    save_model(*tiny, directory / "model")
    tokenizer = tiny[1].tokenizer
    turns = []
    for example in test_examples[::90]:
        encoded = encode_prompt(tiny[1], prompt_messages(example), example.figure.kind)
        inputs = example_inputs(tiny[1], example, encoded)
        family, boxes = next(iter(example.figure.boxes.items()))
        for mode in ("mask", "draw"):
            call = ToolCall(f"focus_on_{family}_with_{mode}", (next(iter(boxes)),))
            turns.append(ToolTurn(inputs, turn_ids(tokenizer, render_call(call)), render_call(call), [call]))
    torch.save(turns, directory / "turns.pt")
    (directory / "worker.py").write_text(WORKER)
    return directory


@pytest.mark.filterwarnings("ignore:the pad token's embedding is zero")
@pytest.mark.parametrize("case", ["uneven", "one without calls"])
@pytest.mark.parametrize("how", ["ddp", "ddp bfloat16", "fsdp2", "fsdp2 by rows", "fsdp2 bfloat16"])
def test_two_processes_give_the_sums_of_one(world: Path, tiny: tuple[Any, Any], how: str, case: str) -> None:
    turns = torch.load(world / "turns.pt", weights_only=False)
    alone = attribute(tiny[0], calls_batch(turns, tiny[1].tokenizer, "cpu"), config=SETTINGS).signed
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "worker.py"]
    # A process that waits for ever is a failure, not a hang of the suite.
    subprocess.run(
        [*command, str(world), how, case], cwd=world, check=True, timeout=120, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    parts = [torch.load(world / f"{how}-{case}-{rank}.pt", weights_only=False) for rank in range(2)]
    together = torch.cat([part for part in parts if part is not None])
    if how.endswith("bfloat16"):
        assert 1e-5 < total_variation(together, alone).mean() < 0.01
    else:
        assert torch.allclose(together, alone, atol=1e-5)
    assert (parts[1] is None) == (case == "one without calls")
