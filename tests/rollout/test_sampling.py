"""Turns sampled outside training come from the distribution that the trainer's rollouts come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from iapo.data.prompts import prompt_messages
from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.rollout import call_sampling
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.generation import Sampling, generate_turn
from iapo.rollout.turns import turn_ids
from iapo.tools.parsing import render_call
from iapo.training.kept_rollouts import kept_path, write_kept
from iapo.training.side_files import side_files
from iapo.types import Example, ToolCall

DRAWS = 600


@pytest.mark.parametrize("damaged", ['{"prompt_key": "k", "tu', "[1]", '{"turn": "x"}', "\x00\xff"])
def test_a_damaged_list_of_missed_calls_is_named_with_its_line(tmp_path: Path, damaged: str) -> None:
    whole = json.dumps({"prompt_key": "k", "turn": "no call", "count": 1})
    path = tmp_path / call_sampling.MISSES
    path.write_text(f"{whole}\n{damaged}\n", encoding="latin-1")
    with pytest.raises(call_sampling.MissesError, match=r"misses\.jsonl, line 2: found .*bring it back from a copy"):
        call_sampling.read_misses([tmp_path])
    path.write_text(f"{whole}\n")
    assert call_sampling.read_misses([tmp_path]) == {"k": []}
    path.unlink()
    with pytest.raises(call_sampling.MissesError, match=r"misses\.jsonl: found no file.*bring it back from a copy"):
        call_sampling.read_misses([tmp_path])


def test_a_changed_list_of_missed_calls_is_known_by_the_run_s_record(tmp_path: Path) -> None:
    work = tmp_path / "seed0/work"
    write_kept(kept_path(work, 10), [{"step": 10}])
    path, record = work / call_sampling.MISSES, tmp_path / "seed0/model.run.json"
    path.write_text(json.dumps({"prompt_key": "k", "turn": "no call", "count": 1}))
    facts = side_files(record, work)
    assert set(facts) == {"work/misses.jsonl", "work/rollouts/step000010.parquet"}
    record.write_text(json.dumps({"outputs": facts}))
    assert call_sampling.read_misses([work]) == {"k": []}
    path.write_text(path.read_text().replace('"k"', '"K"'))
    with pytest.raises(call_sampling.MissesError, match=r"misses\.jsonl: found sha256 .*trains it again"):
        call_sampling.read_misses([work])


def test_a_call_on_the_right_labels_by_a_tool_that_fails_is_not_right(
    tiny: tuple[Any, Any], test_examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tiny[1].tokenizer
    example = next(e for e in test_examples if e.test_set == "vwtq" and e.focus_labels[0] in e.figure.boxes["rows"])
    calls = [ToolCall(f"focus_on_{family}_with_mask", example.focus_labels) for family in ("rows", "columns")]
    turns = [turn_ids(tokenizer, render_call(call)) for call in calls]
    monkeypatch.setattr(call_sampling, "generate_turn", lambda *_, **__: turns)
    found = call_sampling.sample_calls(*tiny, [example], rollouts=2, sampling=None, turn_tokens=24, seed=0)
    assert [(each.call.family, each.correct) for each in found] == [("rows", True), ("columns", False)]


@pytest.fixture(scope="module")
def first_tokens(tiny: tuple[Any, Any], test_examples: list[Example]) -> tuple[Any, Any, Any, np.ndarray]:
    """Model, processor, a prompt and [V] probabilities of its first token."""
    model, processor = tiny
    prompt = encode_prompt(processor, prompt_messages(test_examples[0]), test_examples[0].figure.kind)
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([prompt.input_ids]),
            mm_token_type_ids=(
                torch.tensor([prompt.input_ids]) == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
            ).long(),
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
        ).logits[0, -1]
    logits[processor.tokenizer.convert_tokens_to_ids(list(SUPPRESSED_TOKENS))] = -torch.inf
    return model, processor, prompt, logits.softmax(-1).double().numpy()


@pytest.mark.gpu_run
@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_first_tokens_are_drawn_with_the_model_s_own_probabilities(
    first_tokens: tuple[Any, Any, Any, np.ndarray], top_p: float
) -> None:
    model, processor, prompt, probabilities = first_tokens
    torch.manual_seed(0)
    turns = generate_turn(model, processor, [prompt] * DRAWS, max_tokens=1, sampling=Sampling(1.0, top_p))
    order = np.argsort(-probabilities)
    mass = probabilities[order].cumsum()
    # TRL's nucleus: the fewest tokens that hold top_p, the one that crosses it among them.
    kept = order[: int((mass < top_p).sum()) + 1] if top_p < 1 else order[probabilities[order] > 0]
    counts = np.bincount([turn[0] for turn in turns], minlength=len(probabilities))
    assert counts[kept].sum() == DRAWS
    # Ten bins of about equal probability, so that every one has enough draws.
    bins = np.array_split(kept, 10)
    expected = np.array([probabilities[tokens].sum() for tokens in bins]) / probabilities[kept].sum()
    seen = np.array([counts[tokens].sum() for tokens in bins])
    assert chisquare(seen, DRAWS * expected).pvalue > 1e-3
