"""A recording engine in vLLM's place; the rest of the step is TRL's own code.

The engine expands images as vLLM does, answers from its own copy of the tiny model, and gets that copy's weights
through TRL's synchronisation.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.generation import vllm_generation

from iapo.data.prompts import open_image, prompt_messages
from iapo.data.selection import dataset_row
from iapo.models.loading import load_model, save_model
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.environment import ENVIRONMENTS
from iapo.rollout.image_check import image_runs
from iapo.rollout.turns import turn_ids
from iapo.tools.drawing import apply
from iapo.tools.parsing import tagged
from iapo.training.trainer import FigureTrainer
from iapo.types import Example, ToolCall

TURN_TOKENS = 6


@dataclass
class Request:
    """What an engine was asked to continue, and its answer."""

    read: list[int]
    """The ids that the model saw, images expanded."""
    images: list[Image.Image]
    sampling: dict[str, Any]
    weights: float
    """A sum over the weights that answered."""
    answer: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Engine:
    """A vLLM of the tiny model: every second request for a scripted prompt gets the scripted turn."""

    def __init__(self, directory: Path, script: dict[tuple[int, ...], list[int]]) -> None:
        self.model, self.processor = load_model(directory)
        self.image = self.processor.image_token_id
        self.requests: list[Request] = []
        self.script = script
        self._lock = Lock()

    def tokens(self, images: Sequence[Image.Image]) -> list[int]:
        """[images] the tokens that each becomes."""
        grids = self.processor.image_processor(images=list(images), return_tensors="pt")["image_grid_thw"]
        return (grids.prod(-1) // 4).tolist()

    def expand(self, ids: Sequence[int], images: Sequence[Image.Image]) -> list[int]:
        """As vLLM's replacement: the next image token becomes as many as the next image has."""
        lengths = iter(self.tokens(images))
        return [each for token in ids for each in [token] * (next(lengths, 1) if token == self.image else 1)]

    @torch.no_grad()
    def answer(self, read: list[int], images: list[Image.Image], sampling: dict[str, Any]) -> Request:
        """One turn, with the log-probabilities that vLLM calls processed."""
        with self._lock:
            request = Request(read, images, sampling, weight_sum(self.model))
            asked = sum(other.read == read for other in self.requests)
            self.requests.append(request)
            pixels = self.processor.image_processor(images=images, return_tensors="pt")
            banned = self.processor.tokenizer.convert_tokens_to_ids(sampling["bad_words"])
            turn = list(self.script.get(tuple(read), [])) if asked % 2 == 0 else []
            if not turn:
                turn = self._run(read, pixels, do_sample=True, max_new_tokens=TURN_TOKENS, suppress_tokens=banned)
            logits = self._logits(read + turn, pixels)[len(read) - 1 : -1]
            logits[:, banned] = -torch.inf
            scores = (logits / sampling["temperature"]).log_softmax(-1)
            request.answer = turn
            request.logprobs = scores.gather(1, torch.tensor(turn)[:, None])[:, 0].tolist()
            return request

    def _run(self, ids: list[int], pixels: Any, **settings: Any) -> list[int]:
        row = torch.tensor([ids])
        kinds = {"attention_mask": torch.ones_like(row), "mm_token_type_ids": (row == self.image).long()}
        return self.model.generate(input_ids=row, **kinds, **pixels, **settings)[0, len(ids) :].tolist()

    def _logits(self, ids: list[int], pixels: Any) -> Tensor:
        row = torch.tensor([ids])
        return self.model(input_ids=row, mm_token_type_ids=(row == self.image).long(), **pixels).logits[0]

    def load(self, name: str, weight: Tensor) -> None:
        """Take one weight that the trainer sends."""
        self.model.get_parameter(name).data.copy_(weight)


def weight_sum(model: Any) -> float:
    return sum(weight.double().sum().item() for weight in model.parameters())


class Recorded(FigureTrainer):
    """Keeps the batches that reach the loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches: list[dict[str, Any]] = []

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self.batches.append({**inputs, "weights": weight_sum(self.model)})
        return super()._compute_loss(model, inputs)


def lengths(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(sum(ids)) for ids in completion_ids]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any]) -> Path:
    path = tmp_path_factory.mktemp("start") / "model"
    save_model(*tiny, path)
    return path


@pytest.fixture(scope="module")
def examples(test_examples: list[Example]) -> list[Example]:
    """A bar chart and a table: two kinds, whose images have different sizes."""
    return [next(e for e in test_examples if e.test_set == name and e.focus_labels) for name in ("h_bar", "vwtq")]


@pytest.fixture(scope="module")
def calls(examples: list[Example]) -> list[ToolCall]:
    families = ("y_values", "rows")
    return [
        ToolCall(f"focus_on_{family}_with_mask", (next(iter(example.figure.boxes[family])),))
        for family, example in zip(families, examples, strict=True)
    ]


@pytest.fixture
def engine(start: Path, tiny: tuple[Any, Any], examples: list[Example], calls: list[ToolCall]) -> Engine:
    processor = tiny[1]
    script = {}
    for example, call in zip(examples, calls, strict=True):
        prompt = encode_prompt(processor, prompt_messages(example), example.figure.kind).input_ids
        text = tagged(json.dumps({"name": call.name, "arguments": call.arguments}))
        script[tuple(prompt)] = turn_ids(processor.tokenizer, text)
    return Engine(start, script)


Make = Callable[..., Any]


@pytest.fixture
def make(start: Path, examples: list[Example], tmp_path: Path) -> Make:
    """``make(kind=Recorded, **arguments)``: a trainer of two steps, four rollouts of each example in a step."""

    def build(kind: type[GRPOTrainer] = Recorded, turn_tokens: int | None = None, **arguments: Any) -> Any:
        own = {"turn_tokens": turn_tokens} if turn_tokens else {}
        model, processor = load_model(start)
        settings: dict[str, Any] = {
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 60,
            "max_tool_calling_iterations": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "seed": 0,
            **arguments,
        }
        return kind(
            model=model,
            processing_class=processor,
            args=GRPOConfig(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                disable_tqdm=True,
                **settings,
            ),
            train_dataset=Dataset.from_list([dataset_row(example) for example in examples]),
            reward_funcs=[lengths],
            environment_factory=ENVIRONMENTS,
            **own,
        )

    return build


Check = Callable[[Recorded], None]


@pytest.fixture
def check_steps(engine: Engine, examples: list[Example], calls: list[ToolCall]) -> Check:
    """``check_steps(trained)`` asserts what every mode must leave."""
    return lambda trained: _check_steps(engine, trained, examples, calls)


def _check_steps(engine: Engine, trained: Recorded, examples: list[Example], calls: list[ToolCall]) -> None:
    """The loss saw the ids that the engine read, and the edited images behind them."""
    for batch in trained.batches:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        kept = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1).bool()
        answered = [r.read + r.answer for r in engine.requests if abs(r.weights - batch["weights"]) < 1e-6]
        # Weights of the step before, or other image tokens, would leave a row that nobody answered.
        assert all(row[mask].tolist() in answered for row, mask in zip(ids, kept, strict=True))
        assert batch["num_images"] == [len(image_runs(row.tolist(), engine.image)) for row in ids]
    assert trained.batches[0]["weights"] != trained.batches[1]["weights"]
    shown = [[image.tobytes() for image in r.images] for r in engine.requests if len(r.images) == 2]
    edits = [
        [image.tobytes(), apply(image, example.figure, [call]).image.tobytes()]
        for example, call in zip(examples, calls, strict=True)
        for image in [open_image(example)]
    ]
    assert len(shown) == 8 and {tuple(images) for images in shown} == {tuple(images) for images in edits}
    # The engine's log-probabilities leave out four of 176 tokens.
    rows = [row for row in trained.state.log_history if "reward" in row]
    assert max(row["sampling/logp_difference_max"] for row in rows) < 0.06


@pytest.fixture
def colocated(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The engine as the object ``LLM`` that TRL makes; what it was made with and sent."""
    asked: dict[str, Any] = {"sent": [], "resets": 0}

    def llm(**settings: Any) -> SimpleNamespace:
        asked["settings"] = settings
        weights = SimpleNamespace(load_weights=lambda pairs: [engine.load(*pair) for pair in pairs])
        worker = SimpleNamespace(driver_worker=SimpleNamespace(model_runner=SimpleNamespace(model=weights)))
        limits = SimpleNamespace(max_model_len=settings["max_model_len"])
        return SimpleNamespace(
            llm_engine=SimpleNamespace(model_executor=worker, model_config=limits, reset_encoder_cache=reset),
            generate=generate,
            reset_prefix_cache=lambda: None,
        )

    def reset() -> None:
        asked["resets"] += 1

    def generate(prompts: Any, sampling_params: dict[str, Any], use_tqdm: bool) -> list[Any]:
        asked["sent"] += prompts
        return [_output(prompt, sampling_params) for prompt in prompts]

    def _output(prompt: dict[str, Any], sampling: dict[str, Any]) -> SimpleNamespace:
        images = prompt["multi_modal_data"]["image"]
        images = images if isinstance(images, list) else [images]
        request = engine.answer(engine.expand(prompt["prompt_token_ids"], images), images, sampling)
        pairs = zip(request.answer, request.logprobs, strict=True)
        logprobs = [{token: SimpleNamespace(logprob=value, rank=1)} for token, value in pairs]
        completion = SimpleNamespace(token_ids=request.answer, logprobs=logprobs)
        return SimpleNamespace(prompt_token_ids=request.read, outputs=[completion])

    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", llm, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", dict, raising=False)
    # TRL tells vLLM its rank by the environment, where it would stay behind for the tests after this one.
    monkeypatch.setattr(vllm_generation, "os", SimpleNamespace(environ={}))
    monkeypatch.setattr(vllm_generation, "ensure_master_addr_port", lambda: None)
    return asked
