"""What vLLM answers and samples outside training, beside transformers: run by test_real.py."""

import dataclasses
import sys
from collections import Counter
from pathlib import Path

from real_vllm import first_call, teach

from iapo.artifacts.files import write_json
from iapo.config.mini_world import ModelConfig
from iapo.config.schema import TeacherConfig
from iapo.data.prompts import prompt_messages
from iapo.data.store import read_split
from iapo.models.loading import save_model
from iapo.models.tiny import build_model
from iapo.rollout.call_sampling import sample_calls
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.engines import load_writer
from iapo.rollout.generation import Sampling
from iapo.rollout.two_turn import roll_out
from iapo.teacher.turns import Prompt, TurnWriter
from iapo.types import TEST_SETS

QUESTIONS = 60
TURN = 16


def main(data: Path, folder: Path) -> None:
    found = read_split(data, "test", TEST_SETS)
    examples = found[:: max(1, len(found) // QUESTIONS)]
    model, processor = build_model(ModelConfig(hidden_size=128, vision_depth=1), seed=0)
    taught = [next(e for e in found if e.test_set == name) for name in ("h_bar", "vwtq")]
    prompts = [encode_prompt(processor, prompt_messages(e), e.figure.kind) for e in taught]
    calls = [first_call(example, family) for example, family in zip(taught, ("y_values", "rows"), strict=True)]
    teach(model, processor, prompts, calls)
    save_model(model, processor, folder / "policy")
    answers, rates, candidates = {}, {}, {}
    for engine in ("transformers", "vllm"):
        writer, own = load_writer(folder / "policy", engine, device="cpu", precision="float32")
        rollouts = roll_out(writer, own, examples, turn_tokens=TURN, image_help=True)
        answers[engine] = [
            {"turns": each.texts, "original": each.text_original, "off": each.text_off} for each in rollouts
        ]
        sampled = sample_calls(writer, own, taught, rollouts=200, sampling=Sampling(1.0), turn_tokens=TURN, seed=0)
        rates[engine] = Counter(call.example_id for call in sampled)
        teacher = TurnWriter(writer, own, TeacherConfig(sampled_calls=1), TURN)
        chosen = teacher.candidates([Prompt(example, own) for example in taught])
        # The greedy turn's call, and what the teacher says after it; the sampled ones differ.
        candidates[engine] = [dataclasses.asdict(calls[0]) for calls in chosen]
    write_json(
        folder / "figures.json",
        {
            "questions": len(examples),
            "second_turns": sum(len(each["turns"]) > 1 for each in answers["vllm"]),
            "same": [a == b for a, b in zip(answers["transformers"], answers["vllm"], strict=True)],
            "candidates": [candidates[engine] for engine in ("transformers", "vllm")],
            "calls": [[rates[engine][e.example_id] for e in taught] for engine in ("transformers", "vllm")],
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
