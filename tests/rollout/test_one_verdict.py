"""Training, evaluation and records agree on every turn about what was called, and no turn ends a run."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from trl import GRPOTrainer
from trl.chat_template_utils import parse_response

from benchmarks.perf.generated_turns import byte_processor, example, generated_turn
from benchmarks.perf.hostile_turns import SCANS, Way, growth, try_turns
from iapo.data.prompts import prompt_messages
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.environment import ENVIRONMENTS, FigureEnvironment, answer_tool_calls, tool_schemas
from iapo.rollout.status import call_status
from iapo.rollout.two_turn import run_first_turn, start_environment, tool_suffix_ids
from iapo.tools.parsing import parse_turn
from iapo.tools.registry import tools_for
from iapo.training.rollout_recorder import TurnMixin

IMAGE = Image.new("RGB", (84, 84), "gray")
OFFERED = {tool.name for tool in tools_for("table")}


class Trainer(TurnMixin, GRPOTrainer):
    """TRL's tool loop on turns that are given, without a model."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)

    def _get_tool_suffix_ids(self, tool_messages: Any) -> list[int]:
        return tool_suffix_ids(self.processing_class, tool_messages)

    def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
        return [[self._tokenizer.eos_token_id] for _ in prompt_ids], None


@pytest.fixture(scope="module")
def trainer() -> Any:
    processor = byte_processor()

    def start(self: Any, processor: Any) -> None:
        self.processing_class, self._tokenizer = processor, processor.tokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "__init__", start)
        trainer = Trainer(processor)
    trainer.tools = [*tool_schemas("table")]
    trainer._env_tools = {"table": trainer.tools}
    trainer.environment_factories = ENVIRONMENTS
    trainer.max_tool_calling_iterations, trainer.max_completion_length = 1, 10**6
    trainer.args, trainer.is_deepspeed_enabled = SimpleNamespace(device=torch.device("cpu")), False
    trainer.use_vllm, trainer._is_vlm = False, True
    text_config = SimpleNamespace(max_position_embeddings=10**6)
    trainer.model = SimpleNamespace(config=SimpleNamespace(text_config=text_config))
    return trainer


def sampled(trainer: Any, rng: random.Random, count: int) -> list[list[int]]:
    """Token ids of turns, most with an end token; of half of them the special tokens are spelled out."""
    found: list[list[int]] = []
    for spelled in (False, True):
        turns = [generated_turn(rng) + rng.choice(("", "<|im_end|>")) for _ in range(count // 2)]
        found += trainer._tokenizer(turns, add_special_tokens=False, split_special_tokens=spelled)["input_ids"]
    return [ids for ids in found if ids]


def check(text: str, message: dict[str, Any], environment: FigureEnvironment) -> str:
    """Assert that the parser, the message to carry out, the environment and the status agree; return the status."""
    turn = parse_turn(text)
    handed_on = [call["function"] for call in message.get("tool_calls", [])]
    status = call_status(text, environment.succeeded)
    if turn.error is None and all(call.name in OFFERED for call in turn.calls):
        assert handed_on == [{"name": call.name, "arguments": call.arguments} for call in turn.calls], text
        assert list(environment.calls) == turn.calls, text
        assert status == ("none" if not turn.calls else "executed" if environment.succeeded else "failed"), text
    else:
        assert len(handed_on) <= 1 and environment.calls == () and not environment.succeeded, text
        assert status == ("failed" if turn.error is None else "malformed"), text
    return status


def test_the_trainer_s_parser_and_ours_agree_on_10_000_turns(trainer: Any) -> None:
    rng, tokenizer = random.Random(0), trainer._tokenizer
    question, schemas = example(), list(tool_schemas("table"))
    prefix = tokenizer("<|im_start|>assistant")["input_ids"]
    found: dict[str, int] = dict.fromkeys(("none", "malformed", "failed", "executed"), 0)
    turns = sampled(trainer, rng, 10_200)
    assert len(turns) >= 10_000
    for ids in turns:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        message = parse_response(tokenizer, ids, prefix=prefix, tools=schemas)
        environment = start_environment(question, IMAGE)
        answer_tool_calls(environment, message.get("tool_calls", []))
        found[check(text, message, environment)] += 1
    # The generator reaches every verdict.
    assert min(found.values()) > 300, found


def test_trl_s_loop_carries_out_what_the_evaluation_does(trainer: Any) -> None:
    rng, question = random.Random(1), example()
    ids = sampled(trainer, rng, 200)
    environments: list[Any] = [start_environment(question, IMAGE) for _ in ids]
    trainer._batch_environments = ["table"] * len(ids)
    trainer._sync_tool_dicts = [{name: getattr(one, name) for name in OFFERED} for one in environments]
    trainer._async_tool_dicts = [{} for _ in ids]
    prompt = encode_prompt(trainer.processing_class, prompt_messages(question), "table").input_ids
    completions = [[parse_response(trainer._tokenizer, turn, prefix=prompt, tools=trainer.tools)] for turn in ids]
    before = [list(turn) for turn in ids]
    mask, completions, *_ = trainer._tool_call_loop(
        [[] for _ in ids], [list(prompt) for _ in ids], ids, completions, None, None, {}
    )
    for turn, messages, environment, row in zip(before, completions, environments, mask, strict=True):
        text = trainer._tokenizer.decode(turn, skip_special_tokens=True)
        check(text, messages[0], environment)
        alone = start_environment(question, IMAGE)
        expected = run_first_turn(text, question, alone)
        answers = [message for message in messages if message["role"] == "tool"]
        assert [answer["name"] for answer in answers] == [answer["name"] for answer in expected[1:]]
        assert row[: len(turn)] == [1] * len(turn) and (0 in row) == bool(answers)
        assert environment._image.tobytes() == alone._image.tobytes()


def test_hostile_turns_and_answers_go_all_the_way_to_parquet() -> None:
    torch.set_num_threads(1)
    tried = try_turns(Way(byte_processor(), example()), 5_000, seed=0)
    assert tried.faults == [], tried.faults[0]


@pytest.mark.parametrize("scan", [name for name in SCANS if name != "extract, score"])
@pytest.mark.parametrize("kind", ["opened calls", "empty calls", "calls", "thoughts with calls", "labels", "brackets"])
def test_a_long_turn_is_read_in_linear_time(scan: str, kind: str) -> None:
    small, large = growth(SCANS[scan], kind, (100_000, 1_000_000))
    # Quadratic time would take a hundred times as long.
    assert large < 40 * small + 0.2, (small, large)
