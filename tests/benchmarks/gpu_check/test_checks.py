"""Every check runs in tiny shapes on a CPU, and what they build has the shapes that they say."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.gpu_check.attribution import TRUSTED
from benchmarks.gpu_check.checks import CHECKS
from benchmarks.gpu_check.one_check import outcome
from benchmarks.gpu_check.precision import EXACT, ROUNDED
from benchmarks.gpu_check.questions import call_on, called_turns, encoded, long_question, question
from benchmarks.gpu_check.scale import REAL, TINY
from benchmarks.gpu_check.shapes import prepared_processor, qwen_config, random_policy
from benchmarks.gpu_check.steps import FIRST_KL
from iapo.data.prompts import open_image
from iapo.jobs.model_sizes import ModelSize
from iapo.rollout.status import call_status
from iapo.rollout.two_turn import run_first_turn, start_environment
from iapo.tools.parsing import render_call

FIGURES: dict[str, tuple[str, ...]] = {
    "throughput": ("versions", "bf16_tflops", "tf32_tflops", "fp32_tflops", "copy_tb_s", "decode_tb_s"),
    "attribution": ("bfloat16", "mixed"),
    "steps": ("grpo_step_seconds", "iapo_step_seconds", "iapo_over_grpo", "seconds", "padding", "sustained_tflops"),
    "precisions": ("total_variation_mean", "total_variation_most", "rotary_errors"),
    "vision": ("seconds_by_windows", "seconds_batched", "relative_error"),
    "captum": ("tv_ours", "tv_captum", "captum_over_ours"),
    "resume": ("steps_before", "steps_after", "gradients_apart"),
    "generation": ("bfloat16", "mixed"),
    "teacher_cache": ("seconds_a_prompt", "hours"),
    "evaluation": ("questions", "hours_a_policy"),
}
"""Check → some of its figures."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
@pytest.mark.filterwarnings("ignore")
def test_every_check_runs_on_a_cpu(name: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process: a process of its own would need most of the time for its imports.
    found = outcome(name, "tiny", work)
    if name == "full_weights":
        assert found == {"status": "skipped", "reason": "the formula is of a GPU's memory"}
        return
    assert found["status"] == "passed", found
    assert set(FIGURES[name]) <= found["figures"].keys()
    numbers = list(_numbers(found["figures"]))
    assert numbers and all(number == number and abs(number) < 1e15 for number in numbers)


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, float | int):
        yield value


@pytest.mark.parametrize("size", [REAL.student, REAL.teacher, TINY.student, TINY.teacher])
def test_models_have_the_parameters_of_their_size(size: ModelSize) -> None:
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(qwen_config(size, prepared_processor(TINY)))
    model.tie_weights()
    assert sum(each.numel() for each in model.parameters()) == size.parameters


def test_the_pad_token_has_an_embedding() -> None:
    model, processor = random_policy(TINY.student, TINY, "cpu", torch.float32)
    assert model.get_input_embeddings().weight[processor.tokenizer.pad_token_id].any()


def test_a_real_prompt_is_as_long_as_the_estimate_takes_it() -> None:
    processor = prepared_processor(REAL)
    prompt = encoded(processor, long_question(0, REAL, processor))
    assert prompt.image_grid_thw.prod().item() / 4 == 1200
    assert len(prompt.input_ids) == pytest.approx(2700, abs=3)
    turns = called_turns(processor, long_question(0, REAL, processor), REAL.calls)
    assert len({tuple(turn.ids) for turn in turns}) == REAL.calls
    assert set(turns[0].prompt.block_ids) == {-1, 0, 1, 2, 3}


def test_scripted_calls_are_right_and_are_carried_out() -> None:
    example = question(0, TINY)
    for number in range(30):
        environment = start_environment(example, open_image(example))
        text = render_call(call_on(example, number))
        run_first_turn(text, example, environment)
        assert call_status(text, environment.succeeded) == "executed"
    assert len({call_on(example, number) for number in range(30)}) == 30


def test_the_documentation_lists_the_checks_and_their_bounds() -> None:
    page = (Path(__file__).parents[3] / "docs" / "gpu_check.md").read_text()
    listed = re.findall(r"^\| ([a-j]) `(\w+)` \|", page, re.MULTILINE)
    assert listed == [(check.group, check.name) for check in CHECKS]
    assert f"{REAL.calls} calls on a prompt of {REAL.prompt_tokens:,} tokens, {REAL.points} points" in page
    assert f"at {REAL.captum_points} points" in page
    assert f"{2 * REAL.questions} questions" in page
    assert f"limits of all checks together\nare {sum(check.seconds for check in CHECKS) / 60:.0f} minutes" in page
    assert "four layers" in page and REAL.shallow_layers == 4
    assert (TRUSTED, FIRST_KL, EXACT, ROUNDED) == (1.15, 1e-3, 1e-4, 0.01)
    for bound in ("15 % over the estimate", "KL is over .001", "total variation is over 10⁻⁴, .01, .01"):
        assert bound in page
