"""Verdicts of the teacher, the guard against failed verdicts, and the column that the trainer makes of them."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from trl import GRPOConfig

from iapo.cold_start.demonstrations import Demonstration, run_call, spoken_answer
from iapo.cold_start.stages import collate
from iapo.data.prompts import Message, answer_text, open_image, prompt_messages
from iapo.data.selection import dataset_row
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rewards.answers.extraction import extract
from iapo.rewards.verifier import ToolUse, VerifierError, VerifierGuard
from iapo.rewards.verifier_server import ServerVerifier
from iapo.rewards.verifier_teacher import TeacherVerifier, agreement
from iapo.rollout.environment import ENVIRONMENTS, tool_schemas
from iapo.rollout.two_turn import roll_out
from iapo.tools.parsing import render_call
from iapo.training.verifier_mixin import VerifierTrainer
from iapo.types import Example, ToolCall

TURN_TOKENS = 12
WRONG = "90"
ROLES = ("right", "misread", "failing", "direct")

MakeUse = Callable[..., ToolUse]
MakeVerifier = Callable[..., ServerVerifier]


class Counting:
    """Passes uses on and keeps what was asked."""

    def __init__(self, verifier: Any) -> None:
        self.verifier, self.asked = verifier, []

    @property
    def last_failure(self) -> str:
        return self.verifier.last_failure

    @property
    def failures(self) -> Counter[str]:
        return self.verifier.failures

    @property
    def refusal(self) -> str:
        return self.verifier.refusal

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        self.asked += [use.key for use in uses]
        return self.verifier.verdicts(uses)


def distinct_uses(tool_use: MakeUse, examples: Sequence[Example], count: int) -> list[ToolUse]:
    found = [tool_use(each) for each in examples[:count]]
    assert len({use.key for use in found}) == count
    return found


def test_equal_tool_uses_are_asked_once_a_run(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    example = next(each for each in test_examples if each.test_set == "vwtq")
    a, b = list(example.figure.boxes["rows"])[:2]
    one, same, other = (
        tool_use(example, ToolCall("focus_on_rows_with_draw", labels)) for labels in ((a, b), (b, a, b), (a,))
    )
    counting = Counting(server_verifier(judge.url, tmp_path))
    guard = VerifierGuard(counting, 0.0)
    assert guard.verdicts([one, same, other, one]) == [1.0] * 4 and guard.verdicts([same]) == [1.0]
    assert counting.asked == [one.key, other.key] and guard.asked == 2 and guard.failed == 0


def test_a_failed_use_is_asked_again_when_it_comes_back(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    judge.reply = lambda number, body: "no idea" if number == 0 else "1"
    guard = VerifierGuard(server_verifier(judge.url, tmp_path, retries=0), 0.0)
    use = tool_use(test_examples[0])
    first, second = guard.verdicts([use]), guard.verdicts([use])
    assert math.isnan(first[0]) and second == [1.0] and (guard.asked, guard.failed) == (2, 1)


def test_too_many_failures_stop_the_run_and_say_what_to_do(
    judge: Any, tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, tool_use: MakeUse
) -> None:
    uses = distinct_uses(tool_use, test_examples, 24)
    doubtful = [use.question for use in uses[:6]]

    def reply(number: int, body: dict[str, Any]) -> str:
        said = body["messages"][0]["content"][0]["text"]
        return "I cannot tell" if any(question in said for question in doubtful) else "0"

    judge.reply = reply
    verifier = server_verifier(judge.url, tmp_path, retries=0)
    failed = sum(map(math.isnan, verifier.verdicts(uses)))
    assert failed >= 6
    with pytest.raises(VerifierError) as stopped:
        VerifierGuard(verifier, 0.2).verdicts(uses)
    message = str(stopped.value)
    assert f"found {failed} of 24 tool uses without a verdict" in message and "expected at most 20%" in message
    assert judge.url in message and "I cannot tell" in message
    assert f"requests by cause: no_verdict {verifier.failures['no_verdict']};" in message
    for remedy in ("Start the server", "verifier.timeout", "verifier.max_failures", "last checkpoint"):
        assert remedy in message
    # At the limit and not above it, the run goes on; so it does before 20 were asked.
    tolerant = VerifierGuard(verifier, failed / 24)
    assert sum(map(math.isnan, tolerant.verdicts(uses))) == failed
    assert all(map(math.isnan, VerifierGuard(verifier, 0.0).verdicts(uses[:6])))


def test_a_dead_server_stops_the_run_before_the_whole_batch_has_failed(
    tmp_path: Path, test_examples: list[Example], server_verifier: MakeVerifier, refused_url: str, tool_use: MakeUse
) -> None:
    counting = Counting(server_verifier(refused_url, tmp_path, retries=0))
    with pytest.raises(VerifierError, match=r"found 32 of 32 .*APIConnectionError"):
        VerifierGuard(counting, 0.05).verdicts(distinct_uses(tool_use, test_examples, 64))
    assert len(counting.asked) == 32


@pytest.fixture(scope="module")
def cast(test_examples: list[Example]) -> dict[str, Example]:
    """Four questions about tables, by what the memorised model does with each."""
    tables = [each for each in test_examples if each.test_set == "vwtq"]
    return dict(zip(ROLES, {each.figure.figure_id: each for each in tables}.values(), strict=False))


@pytest.fixture(scope="module")
def memorised(tiny: tuple[Any, Any], cast: dict[str, Example], focus: Callable[[Example], ToolCall]) -> tuple[Any, Any]:
    """The tiny model trained until it knows these conversations by heart: no script, its own sampled tokens."""
    assert len(cast) == 4
    known = [conversation(role, example, focus(example)) for role, example in cast.items()]
    batch = collate([*known, emptied(known[0])], tiny[1])
    model = copy.deepcopy(tiny[0]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    return model.eval(), tiny[1]


def conversation(role: str, example: Example, call: ToolCall) -> Demonstration:
    image = open_image(example)
    opening = prompt_messages(example, image)
    if role == "failing":
        # Its figure has no such column.
        call = ToolCall("focus_on_columns_with_mask", call.labels)
    said = answer_text(WRONG) if role == "misread" else spoken_answer(example)
    answer = {"role": "assistant", "content": said}
    if role == "direct":
        return Demonstration([*opening, answer], example.figure.kind)
    turn = {"role": "assistant", "content": render_call(call)}
    return Demonstration([*opening, turn, *run_call(example, image, call), answer], example.figure.kind)


def emptied(shown: Demonstration) -> Demonstration:
    """The same, but the tool shows nothing, and the answer is wrong."""
    *before, tool, _ = shown.messages
    blank = {**tool, "content": [{"type": "image", "image": empty(tool["content"][0]["image"])}]}
    return Demonstration([*before, blank, {"role": "assistant", "content": answer_text(WRONG)}], shown.kind)


def empty(image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size, "black")


def by_hand(model: Any, processor: Any, example: Example, use: ToolUse) -> tuple[dict[str, Any], str | None]:
    """The same conversation rendered as one text and answered alone."""
    tool: Message = {"role": "tool", "name": "x", "content": [{"type": "image", "image": use.image}]}
    turn = {"role": "assistant", "content": render_call(use.calls[0])}
    messages = [*prompt_messages(example), turn, tool]
    inputs = processor.apply_chat_template(
        [messages], tools=list(tool_schemas(example.figure.kind)), add_generation_prompt=True, tokenize=True,
        return_dict=True, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=TURN_TOKENS, do_sample=False)
    text = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return inputs, extract(text)


def test_the_teacher_s_verdict_is_its_own_answer_found_again(
    memorised: tuple[Any, Any], cast: dict[str, Example], test_examples: list[Example], tool_use: MakeUse
) -> None:
    # Another kind of figure beside them, so that the batch is padded.
    examples = [cast["right"], cast["misread"], test_examples[0]]
    uses = [tool_use(example) for example in examples]
    verifier = TeacherVerifier(*memorised, TURN_TOKENS)
    hands = [by_hand(*memorised, example, use) for example, use in zip(examples, uses, strict=True)]
    alone = roll_out(*memorised, examples, turn_tokens=TURN_TOKENS)
    own = [extract(rollout.texts[-1]) for rollout in alone]
    expected = [
        agreement(said, answer, example.metric) for (_, said), answer, example in zip(hands, own, examples, strict=True)
    ]
    assert verifier.verdicts(uses) == expected
    # It misreads the second figure both times, and cannot know.
    assert [said for _, said in hands][1] == own[1] == WRONG and verifier.verdicts(uses)[:2] == [1.0, 1.0]
    for mine, (inputs, _) in zip(verifier.conversations(uses), hands, strict=True):
        assert mine.input_ids == inputs["input_ids"][0].tolist()
        assert torch.equal(mine.pixel_values, inputs["pixel_values"])
        assert torch.equal(mine.image_grid_thw, inputs["image_grid_thw"])
    assert verifier.verdicts([]) == []


def test_the_edited_image_decides_the_teacher_s_verdict(
    memorised: tuple[Any, Any], cast: dict[str, Example], tool_use: MakeUse
) -> None:
    use = tool_use(cast["right"])
    other = replace(use, image=empty(use.image))
    verifier = TeacherVerifier(*memorised, TURN_TOKENS)
    shown, hidden = verifier.conversations([use, other])
    assert shown.input_ids == hidden.input_ids and len(shown.image_grid_thw) == 2
    first, second = shown.pixel_values.split(shown.image_grid_thw.prod(1).tolist())
    assert torch.equal(first, hidden.pixel_values[: len(first)])
    assert not torch.equal(second, hidden.pixel_values[len(first) :]) and not torch.equal(first, second)
    assert verifier.verdicts([use, other, use]) == [1.0, 0.0, 1.0]


def test_no_verdict_depends_on_what_the_data_says_is_right(
    judge: Any,
    tmp_path: Path,
    memorised: tuple[Any, Any],
    cast: dict[str, Example],
    server_verifier: MakeVerifier,
    tool_use: MakeUse,
) -> None:
    uses = [tool_use(cast["right"]), tool_use(cast["misread"])]
    uses += [replace(uses[0], image=empty(uses[0].image))]
    hidden: Any = {"answer": "none of these", "focus_labels": ["no label"], "metric": uses[0].row["metric"]}
    blind = [replace(use, row={**use.row, **hidden}) for use in uses]
    found = [TeacherVerifier(*memorised, TURN_TOKENS).verdicts(each) for each in (uses, blind)]
    assert found[0] == found[1] == [1.0, 1.0, 0.0]
    server_verifier(judge.url, tmp_path / "seen").verdicts(uses[:1])
    server_verifier(judge.url, tmp_path / "blind").verdicts(blind[:1])
    assert judge.bodies[0] == judge.bodies[1]


@pytest.mark.parametrize(
    ("answer", "own", "metric", "agrees"),
    [
        ("67", "67.0", "exact", 1.0),
        ("67", "68", "exact", 0.0),
        ("102", "100", "relaxed", 1.0),
        ("a || b", "b||a", "exact", 1.0),
        ("a", "b||a", "exact", 0.0),
        ("true", "it is true", "fact", 1.0),
        ("false", "true", "fact", 0.0),
        (None, "67", "exact", 0.0),
        ("67", None, "exact", 0.0),
        (None, None, "exact", 0.0),
    ],
)
def test_two_answers_agree_by_the_question_s_own_metric(
    answer: str | None, own: str | None, metric: Any, agrees: float
) -> None:
    assert agreement(answer, own, metric) == agrees


def one_step(model: Any, processor: Any, cast: dict[str, Example], verifier: Any, output: Path) -> tuple[Any, ...]:
    """One GRPO step of two rollouts for each question: verdicts by role, the step's log, the trainer."""
    seen: dict[str, list[float]] = {}
    roles = {example.example_id: role for role, example in cast.items()}

    def spy(completions: Any, verdict: list[float], example_id: list[str], **_: Any) -> list[float]:
        for name, value in zip(example_id, verdict, strict=True):
            seen.setdefault(roles[name], []).append(value)
        return [float(i) for i in range(len(verdict))]

    trainer = VerifierTrainer(
        model=copy.deepcopy(model),
        processing_class=processor,
        args=GRPOConfig(
            output_dir=str(output), max_steps=1, per_device_train_batch_size=8, num_generations=2, temperature=0.05,
            max_completion_length=64, max_tool_calling_iterations=1, use_cpu=True, bf16=False,
            gradient_checkpointing=False, report_to="none", logging_steps=1, disable_tqdm=True, save_strategy="no",
            generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(list(SUPPRESSED_TOKENS))},
        ),
        train_dataset=Dataset.from_list([dataset_row(example) for example in cast.values()]),
        reward_funcs=[spy],
        environment_factory=ENVIRONMENTS,
        verifier=verifier,
        max_failures=0.05,
    )  # fmt: skip
    trainer.train()
    return seen, next(log for log in trainer.state.log_history if "reward" in log), trainer


def test_a_step_hands_the_verdicts_to_the_rewards(
    tmp_path: Path, memorised: tuple[Any, Any], cast: dict[str, Example]
) -> None:
    counting = Counting(TeacherVerifier(*memorised, TURN_TOKENS))
    seen, log, trainer = one_step(*memorised, cast, counting, tmp_path)
    # The model did what it was taught: calls that ran, one that failed, none.
    called = {environment.succeeded for environment in trainer.environments}
    assert called == {True, False} and log["tools/call_rate"] == 0.75
    assert seen == {"right": [1.0, 1.0], "misread": [1.0, 1.0], "failing": [0.0, 0.0], "direct": [0.0, 0.0]}
    assert {name for name, _ in counting.asked} == {cast["right"].example_id, cast["misread"].example_id}
    assert log["verifier/asked"] == 2 and log["verifier/failures"] == 0 and log["verifier/approved"] == 1
    assert log["seconds/verifier"] > 0


def test_the_teacher_runs_on_the_device_of_its_process(
    tmp_path: Path, memorised: tuple[Any, Any], cast: dict[str, Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[torch.device] = []
    monkeypatch.setattr(TeacherVerifier, "move_to", lambda self, device: devices.append(device))
    *_, trainer = one_step(*memorised, cast, TeacherVerifier(*memorised, TURN_TOKENS), tmp_path)
    assert devices == [trainer.accelerator.device]


def test_a_step_without_a_server_has_no_verdict_and_no_silent_zero(
    tmp_path: Path,
    memorised: tuple[Any, Any],
    cast: dict[str, Example],
    server_verifier: MakeVerifier,
    refused_url: str,
) -> None:
    verifier = server_verifier(refused_url, tmp_path / "replies", retries=0)
    seen, log, _ = one_step(*memorised, cast, verifier, tmp_path)
    assert all(math.isnan(value) for value in seen["right"] + seen["misread"])
    assert seen["failing"] == seen["direct"] == [0.0, 0.0]
    assert log["verifier/asked"] == 2 and log["verifier/failures"] == 1 and log["verifier/approved"] == 0
    assert log["verifier/failures/connection"] == 1
