"""The two loops around the policy: TRL's in training and ours in evaluation, end to end."""

import copy
import inspect
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from baselines import METHODS
from benchmarks.agent import FigureAgent, response_text
from benchmarks.evaluate import evaluate
from iapo.attribution.batch import call_tokens
from iapo.cold_start.demonstrations import spoken_answer
from iapo.config.method_registry import Method, RewardTerm
from iapo.config.schema import Config, TeacherConfig, TrainConfig
from iapo.config.sources import HardwareConfig
from iapo.data.prompts import answer_text, open_image, prompt_messages
from iapo.data.selection import training_prompts
from iapo.data.store import figure_to_json
from iapo.models.loading import load_model, save_model
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.environment import ENVIRONMENTS, answer_tool_calls, tool_schemas
from iapo.rollout.generation import Sampling, generate_turn
from iapo.rollout.two_turn import Rollout, roll_out
from iapo.teacher.build_cache import TeacherPass
from iapo.teacher.cache import TeacherCache
from iapo.teacher.fingerprint import fingerprint, hash_processor, hash_weights
from iapo.teacher.writer import CacheWriter
from iapo.training.checkpoints import clean, last_checkpoint, metrics_file
from iapo.training.run import train
from iapo.training.trainer import FigureTrainer, Sources
from iapo.types import TEST_SETS, Example, ToolCall


class Scripted(FigureAgent):
    """Goes the whole way through lmms-eval with turns that are written by a function."""

    def __init__(self, speak: Any) -> None:
        super(FigureAgent, self).__init__()
        self.batch_size_per_gpu, self.speak = 64, speak

    def _answer(self, examples: Any) -> list[Rollout]:
        return [self.speak(example) for example in examples]


def oracle(example: Example) -> Rollout:
    family = next(f for f, boxes in example.figure.boxes.items() if example.focus_labels[0] in boxes)
    call = ToolCall(f"focus_on_{family}_with_mask", example.focus_labels)
    text = spoken_answer(example)
    message = {"role": "assistant", "content": text}
    return Rollout([message], [text], [call], called=True, call_ok=True, truncated=False)


def guess(example: Example) -> Rollout:
    rng = random.Random(example.example_id)
    text = answer_text(rng.choice(["true", "false"]) if example.metric == "fact" else str(rng.randrange(10, 100)))
    message = {"role": "assistant", "content": text}
    return Rollout([message], [text], [], called=False, call_ok=False, truncated=False)


def test_an_oracle_scores_one_and_a_guesser_near_chance(data_root: Path) -> None:
    paths = {name: data_root / "test" / f"{name}.parquet" for name in TEST_SETS}
    right = evaluate(Scripted(oracle), paths, method="oracle", seed=0)
    assert len(right) == 240 and all(record["score"] == 1 for record in right)
    assert all(record["call"] and json.loads(record["turns"]) for record in right)
    guessed = evaluate(Scripted(guess), paths, method="guess", seed=0)
    by_set = {name: [record["score"] for record in guessed if record["test_set"] == name] for name in TEST_SETS}
    rate = {name: sum(scores) / len(scores) for name, scores in by_set.items()}
    assert 0.25 < rate.pop("vtabfact") < 0.75 and max(rate.values()) < 0.2


def test_tools_answer_in_the_words_of_trl_s_loop(test_examples: list[Example]) -> None:
    example = next(e for e in test_examples if e.test_set == "h_bar")
    environment = ENVIRONMENTS["h_bar"]()
    environment.reset(figure=figure_to_json(example.figure), images=[open_image(example)])

    def call(name: Any, arguments: Any) -> Any:
        message = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return answer_tool_calls(environment, [message])[0]["content"]

    edited = call("focus_on_y_values_with_mask", {"y_values_to_focus_on": list(example.focus_labels)})
    assert edited[0]["type"] == "image" and environment.succeeded
    for name, arguments in [
        ("focus_on_y_values_with_mask", {"y_values_to_focus_on": ["Atlantis"]}),
        ("focus_on_y_values_with_mask", {"labels": []}),
        ("focus_on_y_values_with_mask", None),
        ("focus_on_rows_with_mask", {"rows_to_focus_on": []}),
        ("reset", {}),
        ("__init__", {}),
    ]:
        assert call(name, arguments).startswith("{'error':")
    assert not environment.succeeded
    assert [schema["function"]["name"] for schema in tool_schemas("subfigures")] == ["focus_on_subfigures_with_mask"]


def test_an_untrained_model_is_rolled_out_without_error(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    rollouts = roll_out(*tiny, test_examples[::30], turn_tokens=6)
    assert len(rollouts) == 8 and all(json.loads(response_text(rollout))["turns"] for rollout in rollouts)


def test_call_tokens_are_the_call_and_nothing_around_it(tiny: tuple[Any, Any]) -> None:
    tokenizer = tiny[1].tokenizer
    ids = tokenizer("what is <tool_call>2002</tool_call> the")["input_ids"]
    assert call_tokens(ids, tokenizer) == [False, False, True, True, True, False]


def test_no_turn_holds_an_image_token_however_likely(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    suppressed = processor.tokenizer.convert_tokens_to_ids(list(SUPPRESSED_TOKENS))
    bias = torch.zeros(len(processor.tokenizer))
    bias[suppressed] = 1e4
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + bias)
    prompts = [encode_prompt(processor, prompt_messages(e), e.figure.kind) for e in test_examples[:4]]
    for sampling in (None, Sampling(1.0)):
        turns = generate_turn(model, processor, prompts, max_tokens=5, sampling=sampling)
        assert not {token for turn in turns for token in turn} & set(suppressed)


def test_a_syntax_that_the_tokenizer_does_not_know_is_named(
    tiny: tuple[Any, Any], test_examples: list[Example]
) -> None:
    model, processor = tiny
    prompt = encode_prompt(processor, prompt_messages(test_examples[0]), test_examples[0].figure.kind)
    with pytest.raises(ValueError, match="no token <toolcall>"):
        generate_turn(model, processor, [prompt], max_tokens=2, suppressed=("<tool_call>", "<toolcall>"))


def test_a_batch_without_pixels_stops_the_run() -> None:
    trainer = SimpleNamespace(state=SimpleNamespace(global_step=7))
    with pytest.raises(RuntimeError, match="step 7: the batch reached the loss without pixel values"):
        FigureTrainer._compute_loss(trainer, None, {})  # type: ignore[arg-type]


def test_trl_s_private_methods_are_as_we_override_them() -> None:
    expected = {
        "_tokenize_prompts": ["self", "prompts"],
        "_get_tool_suffix_ids": ["self", "tool_messages"],
        "_generate": ["self", "prompts"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_compute_loss": ["self", "model", "inputs"],
        "_generate_single_turn": [
            *("self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images")
        ],
        "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
        "_prepare_input": ["self", "data"],
        "_get_grad_norm": ["self", "model", "grad_norm"],
        "log": ["self", "logs", "start_time"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == parameters
    scored = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert scored[:2] == ["self", "model"] and hasattr(grpo_trainer, "prepare_fsdp")
    for name, parameters in {
        "generate": ["self", "prompts", "images", "num_generations", "profiler"],
        "_place_features": ["self", "features", "prompt_ids"],
    }.items():
        assert list(inspect.signature(getattr(VLLMGeneration, name)).parameters) == parameters


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any]) -> Path:
    """A saved untrained policy."""
    path = tmp_path_factory.mktemp("start") / "model"
    save_model(*tiny, path)
    return path


SHORT = TrainConfig(steps=2, groups_per_step=3, group_size=2, prompts_per_set=1, save_every=1)


def weights(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_iapo_trains_against_a_cache_of_the_same_prompts(
    tmp_path: Path, start: Path, tiny: tuple[Any, Any], test_examples: list[Example]
) -> None:
    config = Config(profile="test", train=SHORT, teacher=TeacherConfig(sampled_calls=1))
    address = fingerprint(hash_weights(start), hash_processor(start), config.teacher_attribution, "code")
    writer = CacheWriter(tmp_path / "cache", address)
    TeacherPass(*tiny, config, writer).run(training_prompts(test_examples, 1))
    assert TeacherCache(tmp_path / "cache").fingerprint == address
    train(
        METHODS["iapo"], config, test_examples, start=start, sources=Sources(cache=tmp_path / "cache"),
        run_dir=tmp_path / "work", output=tmp_path / "out", seed=0,
    )  # fmt: skip
    rows = metrics_file(tmp_path / "work").rows()
    assert [row["step"] for row in rows] == [1, 2]
    assert {"rewards/outcome_reward/mean", "rewards/alignment_reward/mean", "tools/call_rate"} <= rows[0].keys()


def many_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that an untrained policy already gets in different amounts, so that every step moves weights."""
    return [float(sum(ids)) for ids in completion_ids]


TOKENS = Method("many_tokens", "for tests", lambda config: [RewardTerm(many_tokens, weight=1.0)])


def test_a_run_with_a_damaged_checkpoint_resumes_to_the_same_weights(
    tmp_path: Path, start: Path, test_examples: list[Example]
) -> None:
    settings = replace(SHORT, steps=4)

    def run(name: str) -> Path:
        clean(tmp_path / name)
        train(
            TOKENS, Config(profile="test", train=settings), test_examples, start=start,
            run_dir=tmp_path / name, output=tmp_path / name / "out", seed=0,
        )  # fmt: skip
        return tmp_path / name

    whole, killed = run("whole"), run("killed")
    # What a lost block of the disk leaves.
    optimizer = killed / "checkpoints/checkpoint-4/optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[: optimizer.stat().st_size // 2])
    clean(killed)
    checkpoint = last_checkpoint(killed)
    assert checkpoint is not None and checkpoint.name == "checkpoint-3"
    run("killed")
    assert weights(whole / "out") == weights(killed / "out")
    assert weights(whole / "out") != weights(start)
    assert weights(whole / "out") != weights(whole / "checkpoints/checkpoint-3")


def test_adapters_train_over_frozen_weights_in_the_precision_of_models_that_only_run(
    tmp_path: Path, start: Path, test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(*args: Any, **kwargs: Any) -> Any:
        loaded.append(kwargs.get("precision", "float32"))
        return load_model(*args, **kwargs)

    monkeypatch.setattr("iapo.training.run.load_model", load)
    hardware = HardwareConfig(lora_rank=4, precision="bfloat16")
    train(
        TOKENS, Config(profile="test", train=SHORT, hardware=hardware), test_examples, start=start,
        run_dir=tmp_path / "work", output=tmp_path / "out", seed=0,
    )  # fmt: skip
    before, after = (load_model(folder)[0].state_dict() for folder in (start, tmp_path / "out"))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    # The adapters are merged into the weights as they were saved, not as they were rounded.
    assert loaded[0] == "bfloat16" and loaded[1:] == ["float32"]
    assert moved and all("language_model" in name and "_proj" in name for name in moved)
