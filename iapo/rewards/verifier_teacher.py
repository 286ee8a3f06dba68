"""A verifier that lets the trained teacher answer from the student's edited image.

A tool use is good if the teacher, continuing the conversation after the student's calls, gives the answer that it comes
to by itself, with a call of its own. The gold answer is not used: the teacher may be wrong, as any judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from trl.data_utils import prepare_multimodal_messages

from iapo.data.prompts import Message
from iapo.models.interfaces import Processor, QwenVL
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.verifier import ToolUse
from iapo.rollout.encoding import EncodedPrompt, encode_prompt
from iapo.rollout.environment import ENVIRONMENTS, answer_tool_calls
from iapo.rollout.generation import generate_turn, generate_where, turn_text
from iapo.rollout.turns import turn_ids
from iapo.rollout.two_turn import continue_prompt
from iapo.tools.messages import assistant_message
from iapo.tools.registry import tools_for
from iapo.types import Metric


class TeacherVerifier:
    """Verifier that approves a tool use if the teacher's answer from the edited image is its own answer."""

    last_failure = ""
    """Always empty: the teacher always gives a verdict."""
    refusal = ""
    """Always empty."""

    def __init__(self, model: QwenVL, processor: Processor, turn_tokens: int) -> None:
        """
        Args:
            model: the teacher, in eval mode.
            processor: its processor.
            turn_tokens: maximum length of an answer, in tokens.
        """
        self._model, self._processor, self._turn_tokens = model, processor, turn_tokens
        self.failures: Counter[str] = Counter()
        """Always empty."""
        self._own_answers: dict[str, str | None] = {}
        """Example id → the teacher's answer by itself; None where it gives none."""

    def move_to(self, device: torch.device) -> None:
        """Run the teacher on this device from now on."""
        cast(nn.Module, self._model).to(device)

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """Return [B] 1.0 where the teacher's greedy answer after the student's calls is its own answer, else 0.0."""
        if not uses:
            return []
        new = {use.row["example_id"]: use for use in uses if use.row["example_id"] not in self._own_answers}
        if new:
            self._answer_alone(list(new.values()))
        turns = generate_turn(self._model, self._processor, self.conversations(uses), max_tokens=self._turn_tokens)
        texts = [turn_text(self._processor.tokenizer, turn) for turn in turns]
        return [
            agreement(extract(text), self._own_answers[use.row["example_id"]], use.row["metric"])
            for text, use in zip(texts, uses, strict=True)
        ]

    def _answer_alone(self, uses: Sequence[ToolUse]) -> None:
        """Note the teacher's own greedy answer to the question of each use, with a tool turn if it makes one."""
        prompts = self._prompts(uses)
        opening = list(prompts.values())
        first = generate_turn(self._model, self._processor, opening, max_tokens=self._turn_tokens)
        texts = [turn_text(self._processor.tokenizer, turn) for turn in first]
        continued = {
            i: continue_prompt(self._processor, opening[i], first[i], answers)
            for i, (text, use) in enumerate(zip(texts, uses, strict=True))
            if (answers := _tool_messages(text, use))
        }
        for i, turn in generate_where(self._model, self._processor, continued, self._turn_tokens).items():
            texts[i] = turn_text(self._processor.tokenizer, turn)
        self._own_answers |= {name: extract(text) for name, text in zip(prompts, texts, strict=True)}

    def conversations(self, uses: Sequence[ToolUse]) -> list[EncodedPrompt]:
        """Return [B] encoded conversations: the prompt, the student's calls, the edited image as the tool response."""
        prompts = self._prompts(uses)
        return [self._continued(prompts[use.row["example_id"]], use) for use in uses]

    def _prompts(self, uses: Sequence[ToolUse]) -> dict[str, EncodedPrompt]:
        """Return example id → encoded prompt, in the order of first appearance."""
        prompts: dict[str, EncodedPrompt] = {}
        for use in uses:
            example_id, row = use.row["example_id"], use.row
            if example_id not in prompts:
                prompt: Any = row["prompt"]
                messages = prepare_multimodal_messages(prompt, images=list(row["images"]))
                prompts[example_id] = encode_prompt(self._processor, messages, row["environment"])
        return prompts

    def _continued(self, prompt: EncodedPrompt, use: ToolUse) -> EncodedPrompt:
        content = [{"type": "image", "image": use.image}]
        answer: Message = {"role": "tool", "name": use.calls[-1].name, "content": content}
        return continue_prompt(self._processor, prompt, turn_ids(self._processor.tokenizer, use.text), [answer])


def _tool_messages(text: str, use: ToolUse) -> list[Message]:
    """Carry out the calls of a turn about the use's question, and return the tools' messages; none without a call."""
    kind = use.row["environment"]
    environment = ENVIRONMENTS[kind]()
    environment.reset(figure=use.row["figure"], images=list(use.row["images"]))
    message = assistant_message(text, [tool.name for tool in tools_for(kind)])
    return answer_tool_calls(environment, message.get("tool_calls", []))


def agreement(answer: str | None, own: str | None, metric: Metric) -> float:
    """Return 1.0 if two extracted answers of a model say the same by the question's metric, else 0.0.

    Args:
        answer: answer to compare; None where there is none.
        own: answer that stands in the gold answer's place; with None nothing agrees.
        metric: how the question's answers are matched.
    """
    if own is None:
        return 0.0
    # A prediction joins several answers by two bars, a gold answer by three.
    return score(answer, re.sub(r"\|{2,}", "|||", own), metric)
