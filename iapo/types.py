"""The few records that travel between stages. No torch at run time, so the workflow may import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the figure's image; right and bottom are exclusive."""

FigureKind = Literal["h_bar", "v_bar", "table", "subfigures"]
Family = Literal["columns", "rows", "x_values", "y_values", "subfigures"]
"""What a tool focuses on; also the key of a figure's boxes."""

Metric = Literal["exact", "relaxed", "fact"]
Split = Literal["train", "dev", "test"]
CallStatus = Literal["none", "malformed", "failed", "executed"]
"""What became of a rollout's tool turn: no call, one that does not parse or validate, one that could not be carried
out, or all calls carried out."""

TEST_SETS = ("charxiv", "h_bar", "v_bar", "vwtq", "vwtq_syn", "vtabfact")
"""The paper's six sets, in the order of its table."""


@dataclass(frozen=True)
class Figure:
    """An image's structure: the labels a tool may name and where each one is."""

    figure_id: str
    kind: FigureKind
    boxes: Mapping[Family, Mapping[str, Box]]
    """Family → label → box in pixels. A family that the figure lacks is absent."""


@dataclass(frozen=True)
class ToolCall:
    """One validated call from the closed list: a tool's name and the labels to focus on, in order."""

    name: str
    """``focus_on_<family>_with_<mode>``."""
    labels: tuple[str, ...]

    @property
    def family(self) -> str:
        """What the tool focuses on, e.g. ``rows``."""
        return self.name.removeprefix("focus_on_").rpartition("_with_")[0]

    @property
    def mode(self) -> str:
        """How the focus is drawn: ``mask``, ``draw`` or ``highlight``."""
        return self.name.rpartition("_with_")[2]

    @property
    def arguments(self) -> dict[str, list[str]]:
        """The JSON arguments, e.g. ``{"rows_to_focus_on": ["Italy"]}``."""
        return {f"{self.family}_to_focus_on": list(self.labels)}


@dataclass(frozen=True)
class ParsedTurn:
    """What one turn of a model's text asks for. ``error`` is None when every call is well formed."""

    calls: list[ToolCall]
    error: str | None


@dataclass(frozen=True)
class ToolResult:
    """The edited copy, or the untouched original and the error that the model gets to read."""

    image: Image
    error: str | None


@dataclass(frozen=True)
class Example:
    """One question about one figure, as every stage after ingest sees it."""

    example_id: str
    test_set: str
    split: Split
    figure: Figure
    image_png: bytes
    context: str
    """Plain text about the figure (block P): its kind, title and labels."""
    request: str
    """The question itself (block R)."""
    answer: str
    """Gold answer; several answers are joined by ``|||``."""
    metric: Metric
    focus_labels: tuple[str, ...]
    """Annotated tool argument (ReFocus's ``focus_areas``); empty where the data has none."""


@dataclass(frozen=True)
class BlockAttribution:
    """A call's log-probability attributed to prompt blocks. All float64; K is 4 or more."""

    signed: Tensor
    """[B, K] signed sums in nats, blocks in the order P, R, I, T or that of the finer partition."""
    l1: Tensor
    """[B, K] sums of the tokens' absolute attributions, nats; nan where they were not asked for."""
    residual: Tensor
    """[B] completeness error |sum − Δf| / max(|Δf|, 0.5), no unit."""
    delta_f: Tensor
    """[B] log-probability of the call on the input minus on the baseline, nats."""
    log_p: Tensor
    """[B] log-probability of the call on the input, nats."""
