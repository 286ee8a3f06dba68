"""A verifier that lets the trained teacher answer from the student's edited image.

A tool use is good if the teacher, continuing the conversation after the student's calls, gives the right answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from trl.data_utils import prepare_multimodal_messages

from iapo.data.prompts import Message
from iapo.models.interfaces import Processor, QwenVL
from iapo.rewards.answers.extraction import extract
from iapo.rewards.answers.matching import score
from iapo.rewards.verifier import ToolUse
from iapo.rollout.encoding import EncodedPrompt, encode_prompt
from iapo.rollout.generation import generate_turn, turn_text
from iapo.rollout.turns import turn_ids
from iapo.rollout.two_turn import continue_prompt


class TeacherVerifier:
    """Verifier that approves a tool use if the teacher answers correctly from the edited image."""

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

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """Return [B] 1.0 where the teacher's greedy answer after the student's calls is right, else 0.0."""
        if not uses:
            return []
        turns = generate_turn(self._model, self._processor, self.conversations(uses), max_tokens=self._turn_tokens)
        texts = [turn_text(self._processor.tokenizer, turn) for turn in turns]
        return [
            score(extract(text), use.row["answer"], use.row["metric"]) for text, use in zip(texts, uses, strict=True)
        ]

    def conversations(self, uses: Sequence[ToolUse]) -> list[EncodedPrompt]:
        """Return [B] encoded conversations: the prompt, the student's calls, the edited image as the tool response."""
        prompts: dict[str, EncodedPrompt] = {}
        for use in uses:
            example_id, row = use.row["example_id"], use.row
            if example_id not in prompts:
                prompt: Any = row["prompt"]
                messages = prepare_multimodal_messages(prompt, images=list(row["images"]))
                prompts[example_id] = encode_prompt(self._processor, messages, row["environment"])
        return [self._continued(prompts[use.row["example_id"]], use) for use in uses]

    def _continued(self, prompt: EncodedPrompt, use: ToolUse) -> EncodedPrompt:
        content = [{"type": "image", "image": use.image}]
        answer: Message = {"role": "tool", "name": use.calls[-1].name, "content": content}
        return continue_prompt(self._processor, prompt, turn_ids(self._processor.tokenizer, use.text), [answer])
