"""The interface of the verifiers that judge tool uses for the baseline ``trm``, and a guard that counts failures.

A verifier is either the trained teacher (:mod:`iapo.rewards.verifier_teacher`) or a model behind an OpenAI-compatible
server (:mod:`iapo.rewards.verifier_server`). It sees the question, the student's calls and the edited image, but
neither the gold answer nor the text before a call: the student cannot argue for a verdict, and equal calls get equal
verdicts.

B: tool uses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

from iapo.tools.parsing import canonical, tagged
from iapo.types import ToolCall

if TYPE_CHECKING:
    from iapo.data.selection import DatasetRow

_MIN_ASKED = 20
"""Number of tool uses before the share of failures is checked."""


_CHUNK_SIZE = 32
"""Number of tool uses judged between two checks of the share of failures."""


MAX_QUOTED = 80
"""Maximum length of a reply quoted in a message, in characters."""


@dataclass(frozen=True, eq=False)
class ToolUse:
    """The executed tool use of one rollout, to be judged."""

    row: DatasetRow
    """Dataset row of the question, from :func:`iapo.data.selection.dataset_row`."""
    calls: tuple[ToolCall, ...]
    """The calls in order, at least one."""
    image: Image.Image
    """The figure as edited by the calls."""

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Example id and canonical calls: equal for tool uses that give the same image for the same question."""
        return self.row["example_id"], tuple(canonical(call) for call in self.calls)

    @property
    def text(self) -> str:
        """The calls in canonical form, written as in an assistant's turn."""
        return "".join(map(tagged, self.key[1]))

    @property
    def question(self) -> str:
        """The text of the prompt: context and request."""
        parts = [part for message in self.row["prompt"] for part in message["content"]]
        return "".join(part["text"] or "" for part in parts if part["type"] == "text")


class Verifier(Protocol):
    """A judge of tool uses."""

    last_failure: str
    """Reason of the latest failure; empty before the first."""
    failures: Counter[str]
    """Cause → number of failures so far."""
    refusal: str
    """Why there will be no verdict on anything, however often it is asked; empty while there may be one."""

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """Return [B] 1.0 for a good tool use, 0.0 for a bad one, NaN where the verifier failed."""


class VerifierError(RuntimeError):
    """Too many tool uses without a verdict, or a verifier that refuses all; the message says why and what to do."""


class VerifierGuard:
    """Wrapper that asks a verifier once per run about each distinct tool use, and stops the run if it often fails."""

    def __init__(self, verifier: Verifier, max_failures: float) -> None:
        """
        Args:
            verifier: the verifier to ask.
            max_failures: share of failures above which :class:`VerifierError` is raised, after the first 20 tool uses.
                A verifier that refuses every question raises it at once.
        """
        self._verifier, self._max_failures = verifier, max_failures
        self._known: dict[tuple[str, tuple[str, ...]], float] = {}
        self.asked = 0
        """Number of tool uses that the verifier was asked about so far."""
        self.failed = 0
        """Number of these without a verdict; they are asked again when they recur."""

    def verdicts(self, uses: Sequence[ToolUse]) -> list[float]:
        """Return [B] the verdict on each tool use, NaN where the verifier failed.

        Raises:
            VerifierError: if the share of failures exceeds the limit, or the verifier refuses every question.
        """
        distinct = {use.key: use for use in uses}
        new = [use for key, use in distinct.items() if key not in self._known]
        # In chunks, so that an unreachable server stops the run long before a large batch has timed out.
        for start in range(0, len(new), _CHUNK_SIZE):
            chunk = new[start : start + _CHUNK_SIZE]
            verdicts = self._verifier.verdicts(chunk)
            self._known |= {use.key: v for use, v in zip(chunk, verdicts, strict=True) if not math.isnan(v)}
            self.asked += len(chunk)
            self.failed += sum(map(math.isnan, verdicts))
            self._stop_if_failing()
        return [self._known.get(use.key, math.nan) for use in uses]

    @property
    def failures(self) -> Counter[str]:
        """Cause → number of the verifier's failures so far."""
        return self._verifier.failures

    def _stop_if_failing(self) -> None:
        if self._verifier.refusal:
            raise VerifierError(
                f"found a verifier that refuses every question ({self._verifier.refusal}); expected verdicts. Set the "
                "right key (verifier.key_variable), verifier.base_url and verifier.model. Nothing is lost: training "
                "resumes from its last checkpoint."
            )
        if self.asked < _MIN_ASKED or self.failed <= self._max_failures * self.asked:
            return
        causes = ", ".join(f"{cause} {number}" for cause, number in self.failures.most_common())
        raise VerifierError(
            f"found {self.failed} of {self.asked} tool uses without a verdict (requests by cause: {causes}; the last: "
            f"{self._verifier.last_failure}); expected at most {self._max_failures:.0%}. Start the server or make it "
            "reachable (verifier.base_url), raise verifier.timeout, or raise verifier.max_failures. Nothing is lost: "
            "training resumes from its last checkpoint."
        )
