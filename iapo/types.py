"""Dataclasses and literals that every stage shares: examples, figures, tool calls, block attributions.

Shapes: B rows, K prompt blocks. Imports no torch at run time, so that the workflow and its rules may import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels of the figure's image; right and bottom are exclusive."""

FigureKind = Literal["h_bar", "v_bar", "table", "subfigures"]
Family = Literal["columns", "rows", "x_values", "y_values", "subfigures"]
"""The kind of figure element that a tool focuses on; also the key of a figure's boxes."""

Metric = Literal["exact", "relaxed", "fact"]
Split = Literal["train", "dev", "test"]
CallStatus = Literal["none", "malformed", "failed", "executed"]
"""Outcome of a rollout's tool turn: no call, a call that does not parse or validate, a call whose execution failed,
or all calls executed."""

BLOCKS = ("P", "R", "I", "T")
"""Prompt blocks in the order of every axis K: plain text, request, image, tool definitions."""

TEST_SETS = ("charxiv", "h_bar", "v_bar", "vwtq", "vwtq_syn", "vtabfact")
"""The paper's six test sets, in the order of its main table."""


@dataclass(frozen=True)
class Figure:
    """The structure of a figure's image: which labels a tool may name, and the box of each."""

    figure_id: str
    kind: FigureKind
    boxes: Mapping[Family, Mapping[str, Box]]
    """Family → label → box in pixels; families that the figure does not have are absent."""


@dataclass(frozen=True)
class ToolCall:
    """A validated call of one of the registered tools: its name and the labels to focus on, in order."""

    name: str
    """Tool name, ``focus_on_<family>_with_<mode>``."""
    labels: tuple[str, ...]

    def names(self, labels: Iterable[str]) -> bool:
        """Return whether the call names exactly these labels, in any order."""
        return set(self.labels) == set(labels)

    @property
    def family(self) -> str:
        """The kind of element that the tool focuses on, e.g. ``rows``."""
        return self.name.removeprefix("focus_on_").rpartition("_with_")[0]

    @property
    def mode(self) -> str:
        """The edit that draws the focus: ``mask``, ``draw`` or ``highlight``."""
        return self.name.rpartition("_with_")[2]

    @property
    def arguments(self) -> dict[str, list[str]]:
        """The arguments as in the call's JSON, e.g. ``{"rows_to_focus_on": ["Italy"]}``."""
        return {f"{self.family}_to_focus_on": list(self.labels)}


@dataclass(frozen=True)
class ParsedTurn:
    """The tool calls parsed from one assistant turn; ``error`` is None when every call is well formed."""

    calls: list[ToolCall]
    error: str | None


@dataclass(frozen=True)
class ToolResult:
    """The edited copy of the image, or the unchanged original with the error message that the model will read."""

    image: Image
    error: str | None


@dataclass(frozen=True)
class Example:
    """One question about one figure, in the form that every stage after ingestion uses."""

    example_id: str
    test_set: str
    split: Split
    figure: Figure
    image_png: bytes
    context: str
    """Plain text that describes the figure (block P): its kind, title and labels."""
    request: str
    """The question (block R)."""
    answer: str
    """Gold answer; multiple answers are joined by ``|||``."""
    metric: Metric
    focus_labels: tuple[str, ...]
    """Annotated tool argument (ReFocus's ``focus_areas``); empty where the data has no annotation."""


@dataclass(frozen=True)
class BlockAttribution:
    """Attribution of each call's log-probability to prompt blocks, in float64; K is 4, or more in a finer partition."""

    signed: Tensor
    """[B, K] sums of the tokens' signed attributions, nats; blocks in the order P, R, I, T or that of the finer
    partition."""
    l1: Tensor
    """[B, K] sums of the tokens' absolute attributions, nats; nan where they were not requested."""
    convergence_delta: Tensor
    """[B] relative completeness error |Σ attributions − Δf| / max(|Δf|, 0.5), dimensionless."""
    delta_f: Tensor
    """[B] log-probability of the call on the input minus that on the baseline input, nats."""
    log_p: Tensor
    """[B] log-probability of the call on the input, nats."""
