"""Two processes that hold a model as accelerate and TRL shard it give the block sums and gradients of one.

The worker wraps with accelerate's own function and TRL's own FSDP2 settings. accelerate shards on GPUs only, so what it
asks of an accelerator is handed to it here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from iapo.attribution.batch import example_inputs
from iapo.config.mini_world import ModelConfig
from iapo.data.prompts import prompt_messages
from iapo.models.loading import save_model
from iapo.models.tiny import build_model
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import ToolTurn, turn_ids
from iapo.tools.parsing import render_call
from iapo.types import Example, ToolCall

pytestmark = pytest.mark.gpu_run

WORKER = """
import itertools
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}

import torch
import torch.distributed as dist
import trl
import yaml
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from trl.trainer.utils import add_fused_lm_head, create_model_from_path

from iapo.attribution.api import attribute
from iapo.attribution.batch import calls_batch
from iapo.config.method import AttributionConfig
from iapo.models.fsdp import held_whole
from iapo.models.loading import load_model
from iapo.training.attribution_mixin import AttributionMixin
from iapo.training.sharded_mixin import gathered_head, sharded_reference

torch.set_num_threads(1)
directory = Path(sys.argv[1])
_, processor = load_model(directory / "model")
turns = torch.load(directory / "turns.pt", weights_only=False)
start = {tied: load_model(directory / "model")[0].state_dict() for tied in (True, False)}
plain = {tied: load_model(directory / "model")[0] for tied in (True, False)}
cases = itertools.product((True, False), ("no", "bf16"), (False, True))
policies = {case: load_model(directory / "model")[0] for case in cases}
# From here on transformers gives zeros to every process but the first.
state = PartialState(cpu=True)
rank = state.process_index
settings = yaml.safe_load((Path(trl.__file__).parent / "accelerate_configs/fsdp2.yaml").read_text())["fsdp_config"]


def accelerator_of(precision):
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=settings["fsdp_version"],
        auto_wrap_policy=settings["fsdp_auto_wrap_policy"].lower(),
        cpu_ram_efficient_loading=settings["fsdp_cpu_ram_efficient_loading"],
        reshard_after_forward=settings["fsdp_reshard_after_forward"],
    )
    if precision == "bf16":
        plugin.set_mixed_precision(torch.bfloat16)
    found = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin, deepspeed_plugin=None), is_main_process=rank == 0,
        mixed_precision=precision, device=torch.device("cpu"), torch_device_mesh=None, process_index=rank,
    )
    found.autocast = lambda: torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    found.unwrap_model = lambda model: model
    found.gather = gather
    return found


def gather(value):
    parts = [torch.zeros_like(value) for _ in range(2)]
    dist.all_gather(parts, value)
    return torch.cat(parts)


def ready(model, tied):
    if not tied:
        # Another head than the embeddings: one that is tied by mistake would be found.
        model.lm_head.weight = nn.Parameter(1.1 * model.lm_head.weight.detach())
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        model.tie_weights = lambda *args, **kwargs: None
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model.train()


def loss_of(model, accelerator, i):
    batch = calls_batch([turns[i]], processor.tokenizer, "cpu")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
    with accelerator.autocast(), gathered_head(model):
        return -model(**{name: batch[name] for name in names}, labels=labels, fused_lm_head=True).log_probs.sum()


class Probe(AttributionMixin):
    def __init__(self, model, accelerator, tokens):
        self.accelerator, self.model = accelerator, model
        self._tokenizer, self.tool_turns = processor.tokenizer, turns
        self._attribution = AttributionConfig(n_steps=4, tolerance=0.05, tokens_per_forward=tokens)
        self._alignment = SimpleNamespace(smoothing=1e-3, aggregation="signed")

    def record(self, name, value):
        pass


def sums_error(model, accelerator, tied, tokens):
    mine = turns[:5] if rank == 0 else turns[5:]
    probe = Probe(model, accelerator, tokens)
    found = probe._attribute_turns(mine)
    alone = attribute(plain[tied], calls_batch(mine, processor.tokenizer, "cpu"), config=probe._attribution)
    return ((found.signed - alone.signed).abs().max() / alone.signed.abs().max()).item()


@torch.no_grad()
def written(model, accelerator, i):
    batch = calls_batch([turns[i]], processor.tokenizer, "cpu")
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
    fields = {name: batch[name] for name in names}
    with accelerator.autocast():
        model.generate(**fields, max_new_tokens=1 + i, do_sample=False)
        return model(**fields).logits.float()


def passes_error(model, accelerator, tied):
    # As transformers' trainer does. More turns, of other lengths, in one process than in the other.
    register_fsdp_forward_method(model, "generate")
    with held_whole(model):
        found = [written(model, accelerator, i) for i in range(1 + 2 * rank)][-1]
    wanted = written(plain[tied], accelerator_of("no"), 2 * rank)
    units = [module._get_fsdp_state()._fsdp_param_group for module in model.modules() if isinstance(module, FSDPModule)]
    assert not any(unit and unit.is_unsharded for unit in units)
    return ((found - wanted).norm() / wanted.norm()).item()


def gradient_error(model, accelerator, tied, passes=((0, 3),)):
    accelerator_of_one = accelerator_of("no")
    for of_ranks in passes:
        loss_of(model, accelerator, of_ranks[rank]).backward()
        (sum(loss_of(plain[tied], accelerator_of_one, i) for i in of_ranks) / 2).backward()
    worst = 0.0
    for mine, whole in zip(model.parameters(), plain[tied].parameters(), strict=True):
        found, wanted = mine.grad.full_tensor().float(), whole.grad
        worst = max(worst, ((found - wanted).norm() / wanted.norm().clamp(min=1e-9)).item())
        mine.grad = whole.grad = None
    return worst


plain = {tied: ready(model, tied) for tied, model in plain.items()}
results = {}
for (tied, precision, checkpointing), policy in policies.items():
    accelerator = accelerator_of(precision)
    policy = ready(policy, tied)
    if checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = fsdp2_prepare_model(accelerator, policy)
    assert isinstance(model.lm_head, FSDPModule)
    # Attribution first, as where vLLM writes the turns: no pass of the trainer comes before it.
    found = {
        "many chunks": sums_error(model, accelerator, tied, 300),
        "one chunk": sums_error(model, accelerator, tied, 100_000),
        "gradient": gradient_error(model, accelerator, tied),
        "gradient of two passes": gradient_error(model, accelerator, tied, ((0, 3), (1, 4))),
        "unequal passes": passes_error(model, accelerator, tied),
        "after a step": sums_error(model, accelerator, tied, 300),
    }
    results[f"{'tied' if tied else 'untied'} {precision} {checkpointing}"] = found
reference = create_model_from_path(str(directory / "model"), dtype=torch.float32, device_map=None)
sharded = sharded_reference(reference, accelerator_of("no"))
wanted = dict(load_model(directory / "model")[0].named_parameters()) if rank == 0 else None
equal = {name: value.full_tensor() for name, value in sharded.named_parameters()}
results["reference"] = {
    "different": [name for name, value in equal.items() if not torch.equal(value, start[True][name])],
    "units": sum(isinstance(module, FSDPModule) for module in sharded.modules()),
}
(directory / f"results-{rank}.json").write_text(json.dumps(results))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, test_examples: list[Example]) -> list[dict[str, Any]]:
    """What each process found, in one start of both: their imports take most of the time."""
    directory = tmp_path_factory.mktemp("sharded")
    # The layers that accelerate looks for are in both towers.
    model, processor = build_model(ModelConfig(hidden_size=64, num_layers=3, vision_depth=2), seed=0)
    save_model(model, processor, directory / "model")
    turns = []
    for example in test_examples[::90]:
        encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
        inputs = example_inputs(processor, example, encoded)
        family, boxes = next(iter(example.figure.boxes.items()))
        for mode in ("mask", "draw"):
            call = ToolCall(f"focus_on_{family}_with_{mode}", (next(iter(boxes)),))
            ids = turn_ids(processor.tokenizer, render_call(call))
            turns.append(ToolTurn(inputs, ids, render_call(call), [call]))
    torch.save(turns, directory / "turns.pt")
    (directory / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "worker.py"]
    # A process that waits for ever is a failure, not a hang of the suite.
    done = subprocess.run(
        [*command, str(directory)], cwd=directory, timeout=400, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((directory / f"results-{rank}.json").read_text()) for rank in range(2)]


ERRORS = ("many chunks", "one chunk", "gradient", "gradient of two passes", "unequal passes", "after a step")


@pytest.mark.filterwarnings("ignore:the pad token's embedding is zero")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("head", ["tied", "untied"])
def test_sums_and_gradients_are_those_of_one_process(
    results: list[dict[str, Any]], head: str, precision: str, checkpointing: bool
) -> None:
    bound = {"no": 1e-4, "bf16": 0.1}[precision]
    for found in results:
        errors = found[f"{head} {precision} {checkpointing}"]
        assert set(errors) == {*ERRORS}
        assert max(errors.values()) < bound, errors


def test_every_process_has_the_checkpoint_as_its_reference(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["reference"]["different"] == []
        # Layer by layer: as one unit it would be gathered whole at every pass.
        assert found["reference"]["units"] > 3
