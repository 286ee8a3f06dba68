"""What the teacher writes on its prompts: turns, whose calls are candidates, and what it says after a call of its own.

The model that is attributed can write them, some prompts at a time. On a GPU vLLM does so several times as fast, in a
process of its own that gives the GPU back: ``python -m iapo.teacher.turns JOB.json`` is that process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from iapo.artifacts.files import atomic_write, digest
from iapo.artifacts.progress import Progress
from iapo.config.policies import Enumerated
from iapo.config.schema import Config, TeacherConfig, TrainConfig
from iapo.config.sources import EngineName, Precision
from iapo.data.prompts import open_image, prompt_messages
from iapo.data.selection import training_prompts
from iapo.data.store import read_split
from iapo.jobs.ending import exit_when_asked
from iapo.jobs.job_log import show_own_messages
from iapo.jobs.launch import launch_alone
from iapo.models.interfaces import Processor
from iapo.rollout.encoding import EncodedPrompt, encode_prompt
from iapo.rollout.engines import load_writer
from iapo.rollout.generation import Engine, Sampling, Writer, generate_turn, generate_where, turn_text
from iapo.rollout.turns import prompt_key, turn_ids
from iapo.rollout.two_turn import continue_prompt, run_first_turn, start_environment
from iapo.teacher.candidates import Candidate, candidates
from iapo.types import Example

PROMPTS_TOGETHER = 16
"""Number of prompts sampled, attributed and written as one shard. The sampled calls depend on it."""


TOKENS_TOGETHER = 2**14
"""Tokens of prompts that are read at once while turns are generated: what fits beside a 7B model on a GPU of 24 GB."""


_PROMPTS_OF_ENGINE = 128
"""Prompts that vLLM is given at once: enough to keep it busy, few enough for the machine's memory."""


class Prompt:
    """An example with its encoded prompt."""

    def __init__(self, example: Example, processor: Processor) -> None:
        self.example = example
        self.encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)

    @cached_property
    def key(self) -> str:
        """Its key in the cache."""
        return prompt_key(self.encoded.input_ids, self.encoded.pixel_values, self.encoded.image_grid_thw)


Choose = Callable[[Sequence[Prompt]], list[list[Candidate]]]
"""Returns the calls to attribute for each prompt."""


class TurnWriter:
    """The teacher while it writes, on prompts whose calls are then chosen."""

    def __init__(self, writer: Writer, processor: Processor, config: TeacherConfig, turn_tokens: int) -> None:
        """
        Args:
            writer: the teacher, in eval mode or in an engine.
            processor: its processor.
            config: how many turns are sampled, how, and which calls are candidates.
            turn_tokens: longest turn.
        """
        self._writer, self._processor, self._config, self._turn_tokens = writer, processor, config, turn_tokens
        self._sampling = Sampling.of(config.train)

    def candidates(self, chunk: Sequence[Prompt]) -> list[list[Candidate]]:
        """Return the calls to attribute for each prompt: the teacher's own, with its answers, and those near them.

        Args:
            chunk: prompts that are sampled together, and whose samples depend on each other.
        """
        # Seeded by the chunk's first example, so that a resumed pass samples the same calls as an uninterrupted one.
        # The prompt's key is not used, so that caches which differ only in the attribution hold the same calls.
        torch.manual_seed(int(digest(chunk[0].example.example_id.encode())[:8], 16) + self._config.train_seed)
        rounds = [self._write(chunk, None)]
        rounds += [self._write(chunk, self._sampling) for _ in range(self._config.sampled_calls)]
        chosen = [
            candidates(prompt.example, [texts[i] for texts in rounds], self._config) for i, prompt in enumerate(chunk)
        ]
        return self._answered(chunk, chosen)

    def _write(self, chunk: Sequence[Prompt], sampling: Sampling | None) -> list[str]:
        """Write one turn per prompt; greedily without a sampling."""
        encoded = [prompt.encoded for prompt in chunk]
        texts: list[str] = []
        for places in self._together(encoded):
            turns = generate_turn(
                self._writer,
                self._processor,
                [encoded[i] for i in places],
                max_tokens=self._turn_tokens,
                sampling=sampling,
            )
            texts += [turn_text(self._processor.tokenizer, turn) for turn in turns]
        return texts

    def _together(self, prompts: Sequence[EncodedPrompt]) -> Iterator[Sequence[int]]:
        """Yield places of the prompts that are handed over at once; an engine finds out itself how many it reads."""
        return iter([range(len(prompts))]) if isinstance(self._writer, Engine) else _within_tokens(prompts)

    def _answered(self, chunk: Sequence[Prompt], chosen: Sequence[Sequence[Candidate]]) -> list[list[Candidate]]:
        """Add what the teacher says after its own calls, where they were carried out."""
        continued = list(self._continued(chunk, chosen))
        answers: dict[int, list[int]] = {}
        for places in self._together([prompt for _, prompt in continued]):
            part = {i: continued[i][1] for i in places}
            answers |= generate_where(self._writer, self._processor, part, self._turn_tokens)
        texts = {continued[i][0]: turn_text(self._processor.tokenizer, turn) for i, turn in answers.items()}
        return [
            [replace(candidate, answer=texts.get((i, rank))) for rank, candidate in enumerate(of_prompt)]
            for i, of_prompt in enumerate(chosen)
        ]

    def _continued(
        self, chunk: Sequence[Prompt], chosen: Sequence[Sequence[Candidate]]
    ) -> Iterator[tuple[tuple[int, int], EncodedPrompt]]:
        """Yield places of the teacher's own calls that were carried out, each with the conversation behind it."""
        for i, (prompt, of_prompt) in enumerate(zip(chunk, chosen, strict=True)):
            for rank, candidate in enumerate(of_prompt):
                if candidate.source != "sampled":
                    continue
                environment = start_environment(prompt.example, open_image(prompt.example))
                _, *tool_messages = run_first_turn(candidate.text, prompt.example, environment)
                if environment.succeeded:
                    ids = turn_ids(self._processor.tokenizer, candidate.text)
                    yield (i, rank), continue_prompt(self._processor, prompt.encoded, ids, tool_messages)


def _within_tokens(prompts: Sequence[EncodedPrompt]) -> Iterator[list[int]]:
    """Yield places of consecutive prompts that are read at once, padded to the longest: at most a chunk's number."""
    together: list[int] = []
    for i in range(len(prompts)):
        longest = max(len(prompts[place].input_ids) for place in [*together, i])
        if together and (len(together) == PROMPTS_TOGETHER or longest * (len(together) + 1) > TOKENS_TOGETHER):
            yield together
            together = []
        together.append(i)
    if together:
        yield together


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TurnJob:
    """Whose turns an engine writes, on which prompts, and how."""

    teacher: Path
    """Pretrained directory."""
    data: Path
    """Folder of the data's manifest."""
    sets: tuple[str, ...]
    prompts_per_set: int
    sampled_calls: int
    enumerated: Enumerated
    seed: int
    temperature: float
    top_p: float
    turn_tokens: int
    """Longest turn, tokens."""
    engine: EngineName
    device: str
    precision: Precision
    made_from: str
    """Digest of teacher, data and code: turns that others wrote are not taken for these."""

    @property
    def settings(self) -> TeacherConfig:
        """How turns are sampled, and which calls are candidates."""
        return TeacherConfig(
            sampled_calls=self.sampled_calls,
            enumerated=self.enumerated,
            train_seed=self.seed,
            train=TrainConfig(temperature=self.temperature, top_p=self.top_p),
        )


def turn_job(teacher: Path, data: Path, config: Config, made_from: str) -> TurnJob:
    """Return the job of a teacher's cache.

    Args:
        teacher: pretrained directory.
        data: folder of the data's manifest.
        config: of the run.
        made_from: digest of teacher, data and code.
    """
    return TurnJob(
        teacher=teacher,
        data=data,
        sets=config.train.sets,
        prompts_per_set=config.train.prompts_per_set,
        sampled_calls=config.teacher.sampled_calls,
        enumerated=config.teacher.enumerated,
        seed=config.teacher.train_seed,
        temperature=config.teacher.train.temperature,
        top_p=config.teacher.train.top_p,
        turn_tokens=config.evaluation.turn_tokens,
        engine=config.evaluation.engine,
        device=config.device,
        precision=config.hardware.precision,
        made_from=made_from,
    )


_JOB: TypeAdapter[TurnJob] = TypeAdapter(TurnJob)
_WRITTEN: TypeAdapter[dict[str, list[Candidate]]] = TypeAdapter(dict[str, list[Candidate]])


def written_by_engine(job: TurnJob, folder: Path) -> Choose:
    """Have an engine write the teacher's turns in a process of its own, unless it has for this very job.

    Args:
        job: the job.
        folder: where its description and its turns are kept, for a pass that is killed behind it.

    Returns:
        The calls to attribute for prompts of the job.
    """
    described = _JOB.dump_json(job, indent=1)
    description = folder / f"turns_{digest(described)[:12]}.json"
    if not _written(description).exists():
        with atomic_write(description) as tmp:
            tmp.write_bytes(described)
        launch_alone("iapo.teacher.turns", description)
    found = _WRITTEN.validate_json(_written(description).read_bytes())
    return lambda chunk: [found[prompt.example.example_id] for prompt in chunk]


def _written(description: Path) -> Path:
    return description.with_suffix(".written.json")


def _write_turns(job: TurnJob) -> dict[str, list[Candidate]]:
    """Return example id → the calls to attribute, for every prompt of a job."""
    writer, processor = load_writer(job.teacher, job.engine, device=job.device, precision=job.precision, seed=job.seed)
    teacher = TurnWriter(writer, processor, job.settings, job.turn_tokens)
    examples = training_prompts(read_split(job.data, "train", job.sets), job.prompts_per_set)
    found: dict[str, list[Candidate]] = {}
    with Progress(len(examples), "teacher turns", unit="prompt") as progress:
        for start in range(0, len(examples), _PROMPTS_OF_ENGINE):
            chunk = [Prompt(example, processor) for example in examples[start : start + _PROMPTS_OF_ENGINE]]
            chosen = teacher.candidates(chunk)
            found |= {prompt.example.example_id: calls for prompt, calls in zip(chunk, chosen, strict=True)}
            progress.update(len(chunk))
    return found


if __name__ == "__main__":
    show_own_messages()
    path = Path(sys.argv[1])
    with exit_when_asked():
        turns = _write_turns(_JOB.validate_json(path.read_bytes()))
        with atomic_write(_written(path)) as partial:
            partial.write_bytes(_WRITTEN.dump_json(turns))
