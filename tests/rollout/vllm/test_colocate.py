"""vLLM on the trainer's own GPU: what TRL's object ``LLM`` is sent. See conftest.py for the engine behind it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer

from iapo.config.method import TrainConfig
from iapo.config.schema import Config
from iapo.config.sources import HardwareConfig
from iapo.data.prompts import prompt_messages
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.image_check import image_runs
from iapo.rollout.lengths import longest_prompt
from iapo.rollout.vllm import collapse_images, sampling_arguments
from iapo.training.guards import GuardMixin, RolloutFault
from iapo.training.rollout_recorder import TurnMixin
from iapo.types import Example

pytestmark = pytest.mark.gpu_run

COLOCATE = TrainConfig(rollouts="vllm_colocate", max_completion_length=60)


def arguments(settings: TrainConfig, processor: Any, **hardware: Any) -> dict[str, Any]:
    config = Config(profile="test", hardware=HardwareConfig(**hardware))
    return sampling_arguments(config, settings, processor, prompt_tokens=100)


def test_images_are_expanded_once(
    colocated: dict[str, Any], engine: Any, make: Any, check_steps: Any, start: Path
) -> None:
    trained = make(**arguments(COLOCATE, engine.processor))
    trained.train()
    check_steps(trained)
    for prompt, request in zip(colocated["sent"], engine.requests, strict=True):
        assert image_runs(prompt["prompt_token_ids"], engine.image) == [1] * len(request.images)
        assert image_runs(request.read, engine.image) == engine.tokens(request.images)
    assert colocated["resets"] == 2, "image features outlived a weight update"
    settings = colocated["settings"]
    assert settings["model"] == str(start) and settings["max_model_len"] == 160
    assert settings["gpu_memory_utilization"] == 0.3 and settings["logprobs_mode"] == "processed_logprobs"
    assert all(r.sampling["bad_words"] == list(SUPPRESSED_TOKENS) and r.sampling["n"] == 1 for r in engine.requests)


def test_a_turn_is_not_as_long_as_a_whole_completion(colocated: dict[str, Any], engine: Any, make: Any) -> None:
    make(turn_tokens=20, **arguments(COLOCATE, engine.processor)).train()
    assert {request.sampling["max_tokens"] for request in engine.requests} == {20}


class Unmended(GuardMixin, TurnMixin, GRPOTrainer):
    """TRL's own use of vLLM."""


class Read(Exception):
    """Ids that vLLM has read."""


def test_trl_alone_expands_them_twice(
    colocated: dict[str, Any], engine: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(read: list[int], images: list[Any], sampling: Any) -> None:
        raise Read(image_runs(read, engine.image), engine.tokens(images))

    monkeypatch.setattr(engine, "answer", stop)
    with pytest.raises(Read) as found:
        make(Unmended, **arguments(COLOCATE, engine.processor)).train()
    runs, tokens = found.value.args
    # When this fails, TRL sends one token an image, and FigureGeneration can go.
    assert runs == [2 * tokens[0] - 1] and tokens[0] > 1


def test_an_engine_that_reads_other_ids_stops_the_run(
    colocated: dict[str, Any], engine: Any, make: Any, tmp_path: Path, examples: list[Example]
) -> None:
    # As where the checkpoint's processor does not hold the trainer's `max_pixels`.
    engine.processor.image_processor.size = {"shortest_edge": 784, "longest_edge": 784 * 4}
    with pytest.raises(RolloutFault, match=r"step 0: found vLLM reading image tokens in runs of"):
        make(**arguments(COLOCATE, engine.processor)).train()
    fault = json.loads((tmp_path / "fault.json").read_text())
    assert set(fault["examples"]) <= {e.example_id for e in examples} and len(fault["batch"]) == 8


def test_a_run_of_image_tokens_becomes_one() -> None:
    assert collapse_images([1, 9, 9, 9, 2, 2, 9, 3], 9) == [1, 9, 2, 2, 9, 3]


def test_each_mode_bans_the_image_tokens_its_own_way(tiny: tuple[Any, Any]) -> None:
    ids = tiny[1].tokenizer.convert_tokens_to_ids(list(SUPPRESSED_TOKENS))
    assert arguments(TrainConfig(), tiny[1]) == {"generation_kwargs": {"suppress_tokens": ids}}
    assert arguments(TrainConfig(rollouts="vllm_server"), tiny[1], vllm_server="http://a:1") == {
        "use_vllm": True,
        "generation_kwargs": {"bad_words": list(SUPPRESSED_TOKENS)},
        "vllm_mode": "server",
        "vllm_server_base_url": "http://a:1",
    }
    assert arguments(COLOCATE, tiny[1], vllm_memory=0.5) == {
        "use_vllm": True,
        "generation_kwargs": {"bad_words": list(SUPPRESSED_TOKENS)},
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.5,
        "vllm_enable_sleep_mode": False,
        "vllm_max_model_length": 160,
    }
    on_gpu = Config(profile="test", device="cuda")
    assert sampling_arguments(on_gpu, COLOCATE, tiny[1])["vllm_enable_sleep_mode"]


@pytest.mark.parametrize(("given", "bound"), [(None, {"max_new_tokens": 20}), (60, {})])
def test_transformers_writes_no_longer_turn_than_the_derived_length_has_room_for(
    tiny: tuple[Any, Any], given: int | None, bound: dict[str, int]
) -> None:
    train = TrainConfig(max_completion_length=given, turn_tokens=20)
    derived = replace(train, max_completion_length=60)
    settings = sampling_arguments(Config(profile="test", train=train), derived, tiny[1])["generation_kwargs"]
    settings.pop("suppress_tokens")
    assert settings == bound


def test_the_longest_prompt_is_counted_without_its_pixels(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    some = test_examples[::7]
    lengths = [len(encode_prompt(tiny[1], prompt_messages(e), e.figure.kind).input_ids) for e in some]
    assert longest_prompt(tiny[1], some) == max(lengths) > min(lengths)
    assert longest_prompt(tiny[1], some[:1]) == lengths[0]
