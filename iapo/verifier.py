"""Who judges a tool use for the baseline ``trm``: the trained teacher, or a model behind an OpenAI-compatible server.

A verdict is on what the student did to the figure, its calls and the edited image. What the student says before a
call is left out, so that it cannot talk its verifier into a verdict, and equal calls get equal verdicts.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from trl.data_utils import prepare_multimodal_messages

from iapo.answers import extract, score
from iapo.config import VerifierConfig
from iapo.prompts import Message
from iapo.provenance import atomic_write
from iapo.rollout import EncodedPrompt, continue_prompt, encode_prompt, generate_turn
from iapo.teacher import turn_ids
from iapo.tools import canonical, tagged
from iapo.types import ToolCall

_TOGETHER = 32
"""Tool uses judged between two looks at the failures; also a teacher's batch."""
_LEAST_ASKED = 20
"""Tool uses before a share of failures means anything."""
_PARALLEL = 8
"""Requests under way at once."""
_REPLY_TOKENS = 64
"""The verdict comes first; the rest of a reply is only for people who read the cache."""
_QUOTED = 80
"""Longest piece of a reply that a message repeats, characters."""


@dataclass(frozen=True, eq=False)
class ToolUse:
    """One rollout's tool use, carried out, to be judged."""

    row: Mapping[str, Any]
    """Of the dataset, as :func:`iapo.train.dataset_row` makes it."""
    calls: tuple[ToolCall, ...]
    """At least one, in order."""
    image: Image.Image
    """The figure after the calls."""

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Equal for uses that leave the same image of the same question: the example's id and canonical calls."""
        return self.row["example_id"], tuple(canonical(call) for call in self.calls)

    @property
    def text(self) -> str:
        """The calls as a turn writes them, in canonical form."""
        return "".join(map(tagged, self.key[1]))

    @property
    def question(self) -> str:
        """All that the prompt says in words: context and request."""
        parts = [part for message in self.row["prompt"] for part in message["content"]]
        return "".join(part["text"] for part in parts if part["type"] == "text")


class Verifier(Protocol):
    """Judges tool uses."""

    last_failure: str
    """Why the last failed one got no verdict; empty where none failed."""

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """[B] 1.0 for a good tool use, 0.0 for another, NaN where no verdict could be had."""


class VerifierError(RuntimeError):
    """Too many tool uses got no verdict; the message says why and what to do."""


class VerifierGuard:
    """Asks a verifier about each distinct tool use once a run, and stops the run where too many get no verdict."""

    def __init__(self, verifier: Verifier, most_failures: float) -> None:
        """
        Args:
            verifier: who is asked.
            most_failures: share of failures above which :class:`VerifierError` is raised, once 20 were asked.
        """
        self._verifier, self._most_failures = verifier, most_failures
        self._known: dict[tuple[str, tuple[str, ...]], float] = {}
        self.asked = 0
        """Tool uses put to the verifier so far."""
        self.failed = 0
        """Those of them without a verdict; they are asked again when they come back."""

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """[B] the verdict on each use, NaN where the verifier gave none.

        Raises:
            VerifierError: above the share of failures.
        """
        distinct = {use.key: use for use in uses}
        new = [use for key, use in distinct.items() if key not in self._known]
        # In parts, so that an unreachable server stops the run long before a large batch has timed out.
        for start in range(0, len(new), _TOGETHER):
            part = new[start : start + _TOGETHER]
            found = self._verifier.verdicts(part)
            self._known |= {u.key: v for u, v in zip(part, found, strict=True) if not math.isnan(v)}
            self.asked += len(part)
            self.failed += sum(map(math.isnan, found))
            self._stop_if_failing()
        return [self._known.get(use.key, math.nan) for use in uses]

    def _stop_if_failing(self) -> None:
        if self.asked < _LEAST_ASKED or self.failed <= self._most_failures * self.asked:
            return
        raise VerifierError(
            f"found {self.failed} of {self.asked} tool uses without a verdict (the last: "
            f"{self._verifier.last_failure}); expected at most {self._most_failures:.0%}. Start the server or make it "
            "reachable (verifier.base_url), raise verifier.timeout, or raise verifier.most_failures. Nothing is lost: "
            "training resumes from its last checkpoint."
        )


class TeacherVerifier:
    """Whether the trained teacher answers the question from the student's edited image."""

    last_failure = ""

    def __init__(self, model: Any, processor: Any, turn_tokens: int) -> None:
        """
        Args:
            model: the teacher, in eval mode.
            processor: its processor.
            turn_tokens: longest answer, tokens.
        """
        self._model, self._processor, self._turn_tokens = model, processor, turn_tokens

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """[B] 1.0 where the teacher's greedy answer after the student's calls is right, else 0.0; one batch."""
        if not uses:
            return []
        turns = generate_turn(self._model, self._processor, self.conversations(uses), most_tokens=self._turn_tokens)
        texts = [self._processor.tokenizer.decode(turn, skip_special_tokens=True) for turn in turns]
        return [
            score(extract(text), use.row["answer"], use.row["metric"]) for text, use in zip(texts, uses, strict=True)
        ]

    def conversations(self, uses: Sequence[ToolUse]) -> list[EncodedPrompt]:
        """[B] the prompt, the student's calls in one turn, the edited image as the tool's answer."""
        prompts: dict[str, EncodedPrompt] = {}
        for use in uses:
            name, row = use.row["example_id"], use.row
            if name not in prompts:
                messages = prepare_multimodal_messages(row["prompt"], images=list(row["images"]))
                prompts[name] = encode_prompt(self._processor, messages, row["environment"])
        return [self._continued(prompts[use.row["example_id"]], use) for use in uses]

    def _continued(self, prompt: EncodedPrompt, use: ToolUse) -> EncodedPrompt:
        content = [{"type": "image", "image": use.image}]
        answer: Message = {"role": "tool", "name": use.calls[-1].name, "content": content}
        return continue_prompt(self._processor, prompt, turn_ids(self._processor.tokenizer, use.text), [answer])


_QUESTION = """\
Somebody uses an image tool to answer a question about a figure. You see the figure after the tool's edit.

What they were told and asked:
{question}

Their tool call:
{call}

Does the call focus on what the question needs, and can the question be answered from the edited figure?
Begin your reply with 1 for yes or 0 for no."""


@dataclass(frozen=True)
class _Request:
    prompt: str
    image: Image.Image
    path: Path
    """Where the reply is cached."""


class ServerVerifier:
    """Asks a model behind an OpenAI-compatible server, at temperature 0; replies with a verdict are kept on disk."""

    def __init__(self, config: VerifierConfig, folder: Path, *, first_wait: float = 1.0) -> None:
        """
        Args:
            config: the server, its model and how patient to be.
            folder: of the cached replies, a file each; jobs may share it.
            first_wait: pause before the second attempt, seconds; each later one is twice as long.
        """
        import openai  # takes a second that the teacher's verdicts need not wait for

        self._config, self._folder, self._first_wait = config, folder, first_wait
        # The retries are ours: a reply without a verdict is retried too, and every failure is counted.
        self._client = openai.OpenAI(
            base_url=config.base_url,
            api_key=os.environ.get(config.key_variable) or "none",
            timeout=config.timeout,
            max_retries=0,
        )
        # A body that claims to be JSON and is not raises a ValueError.
        self._errors = (openai.OpenAIError, ValueError)
        self.last_failure = ""

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """[B] the server's verdicts, a few requests at a time; equal requests are sent once."""
        requests = [self._request(use) for use in uses]
        distinct = {request.path: request for request in requests}
        with ThreadPoolExecutor(_PARALLEL) as pool:
            replies = dict(zip(distinct, pool.map(self._ask, distinct.values()), strict=True))
        failures = [cause for verdict, cause in replies.values() if math.isnan(verdict)]
        if failures:
            self.last_failure = f"{self._config.base_url} gave {failures[-1]}"
        return [replies[request.path][0] for request in requests]

    def _request(self, use: ToolUse) -> _Request:
        prompt = _QUESTION.format(question=use.question, call="\n".join(use.key[1]))
        words = json.dumps([self._config.model, prompt, use.image.mode, use.image.size])
        digest = hashlib.sha256(words.encode() + use.image.tobytes()).hexdigest()
        return _Request(prompt, use.image, self._folder / f"{digest}.json")

    def _ask(self, request: _Request) -> tuple[float, str]:
        """The verdict; or NaN and what came instead at the last attempt."""
        known = _cached_verdict(request.path)
        if known is not None:
            return known, ""
        cause = ""
        for attempt in range(self._config.retries + 1):
            if attempt:
                time.sleep(self._first_wait * 2 ** (attempt - 1))
            try:
                reply = self._reply(request)
            except self._errors as error:
                cause = f"{type(error).__name__}: {error}"
                continue
            verdict = parse_verdict(reply)
            if verdict is not None:
                self._keep(request, reply)
                return verdict, ""
            cause = f"a reply that does not begin with 1 or 0: {reply[:_QUOTED]!r}"
        return math.nan, cause

    def _reply(self, request: _Request) -> str:
        content: Any = [
            {"type": "text", "text": request.prompt},
            {"type": "image_url", "image_url": {"url": _data_url(request.image)}},
        ]
        completion: Any = self._client.chat.completions.create(
            model=self._config.model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=_REPLY_TOKENS,
        )
        try:
            # The package hands on whatever a server sends, a web page included.
            return completion.choices[0].message.content or ""
        except (AttributeError, IndexError, TypeError):
            raise ValueError(f"found {str(completion)[:_QUOTED]!r}; expected a chat completion") from None

    def _keep(self, request: _Request, reply: str) -> None:
        facts = {"model": self._config.model, "prompt": request.prompt, "reply": reply}
        with atomic_write(request.path) as partial:
            partial.write_text(json.dumps(facts, indent=1) + "\n")


def _cached_verdict(path: Path) -> float | None:
    try:
        return parse_verdict(json.loads(path.read_text())["reply"])
    except (OSError, ValueError):  # not there, or damaged: ask again
        return None


def _data_url(image: Image.Image) -> str:
    png = io.BytesIO()
    image.save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


# A lone digit, then the end, punctuation or an explanation; so neither 10 nor 0.5, 1/2, "1 or 0" or "1 label is off".
_VERDICT = re.compile(
    r"""
    [\s*_`"'(\[]*
    (?P<verdict>[01])
    [*_`"')\]]*
    (?:
        \s*\Z
      | [ \t]*\n
      | [.:;,!]+ [*_`"']* (?:\s|\Z)
      | \s+ [–—-] \s
      | \s+ (?:because|since|as)\b
      | \s+ [(]
      | \s+ (?!(?:OR|AND|OF|OUT|TO|Or|And|Of|Out|To)\b) [A-Z]
    )
    (?!\s*[01]\b)
    """,
    re.VERBOSE,
)
_SECOND_POINT = re.compile(r"^\W*2[.:)]", re.MULTILINE)
"""Where a reply is a numbered list, its first 1 is no verdict."""


def parse_verdict(text: str) -> float | None:
    """The verdict that a reply begins with.

    Args:
        text: a model's reply.

    Returns:
        1.0 or 0.0; None for any reply that does not begin with just one of them, however many it holds.

    Example:
        >>> parse_verdict("0 because 10 differs"), parse_verdict("10"), parse_verdict("The answer is 1 or 0")
        (0.0, None, None)
    """
    found = _VERDICT.match(text)
    return float(found["verdict"]) if found and not _SECOND_POINT.search(text) else None
