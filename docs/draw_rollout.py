"""Draw docs/rollout.png: one rollout of training, and the two attributions that its reward compares.

``python docs/draw_rollout.py results/mini/train/iapo/seed2/work/rollouts/step000070.parquet`` takes the first one of a
kept step whose call was carried out on the annotated label and whose answer is right.
"""

import io
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow.parquet as pq
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image

from iapo.artifacts.files import atomic_write
from iapo.data.store import figure_from_json
from iapo.tools.drawing import apply
from iapo.tools.parsing import parse_turn

BLOCKS = {"plain text": "#b8bcc2", "request": "#3f8fd9", "image": "#f5a623", "tools": "#7a3fb0"}
_HATCHES = ("", "//", "..", "xx")


def shown(path: Path) -> dict[str, Any]:
    """Return the rollout to show.

    Raises:
        SystemExit: if the step has none.
    """
    for row in pq.read_table(path).to_pylist():
        calls = parse_turn(row["turns"][0]).calls
        named = calls and set(calls[0].labels) == set(row["focus_labels"])
        if named and row["call_status"] == "executed" and row["reward/outcome_reward"] == 1 and row["student_shares"]:
            return row
    raise SystemExit(f"error: found no right call with a right answer in {path}; take the file of another step")


def draw(row: dict[str, Any], target: Path) -> None:
    """Draw the rollout and its shares."""
    call = parse_turn(row["turns"][0]).calls[0]
    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
    edited = apply(image, figure_from_json(row["figure"]), [call]).image
    figure = pyplot.figure(figsize=(9, 3.5), dpi=110)
    grid = figure.add_gridspec(2, 3, height_ratios=(3, 1.25), hspace=0.5, wspace=0.15)
    _picture(figure.add_subplot(grid[0, 0]), image, f"1. {row['request'].replace(' ?', '?')}", "the figure")
    _picture(
        figure.add_subplot(grid[0, 1]), edited, f"2. call: {call.mode} {', '.join(call.labels)}", "the edited figure"
    )
    answer = figure.add_subplot(grid[0, 2])
    answer.axis("off")
    penalty = -row["reward/alignment_reward"]
    weight = row["weight/alignment_reward"]
    lines = (
        f"3. it answers: {row['turns'][-1].removeprefix('FINAL ANSWER: ')}",
        "    right: outcome 1",
        "4. attribution differs:",
        f"    divergence {penalty:.3f}",
        f"reward = 1 − {weight:g} × {penalty:.3f} = {1 - weight * penalty:.3f}",
    )
    answer.text(0, 0.95, "\n".join(lines), va="top", fontsize=10.5, linespacing=1.7)
    _shares(figure.add_subplot(grid[1, :]), row)
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, bbox_inches="tight")
    Image.open(whole).convert("RGB").quantize(48).save(small, "PNG", optimize=True)
    with atomic_write(target) as tmp:
        tmp.write_bytes(small.getvalue())


def _picture(axis: Axes, image: Image.Image, title: str, below: str) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set(title=title, xticks=[], yticks=[], xlabel=below)
    axis.title.set_fontsize(10.5)


def _shares(axis: Axes, row: dict[str, Any]) -> None:
    for place, whose in enumerate(("teacher", "student")):
        left = 0.0
        for share, (block, colour), hatch in zip(row[f"{whose}_shares"], BLOCKS.items(), _HATCHES, strict=True):
            label = block if place == 0 else None
            axis.barh(place, share, left=left, color=colour, hatch=hatch, edgecolor="white", label=label)
            if share >= 0.08:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                axis.text(left + share / 2, place, f"{share:.0%}", ha="center", va="center", fontsize=9, bbox=box)
            left += share
    axis.set(yticks=[0, 1], yticklabels=["teacher", "student"], xticks=[], xlim=(0, 1))
    axis.set_title("What the call came from: share of each part of the prompt", fontsize=10.5)
    axis.legend(ncols=len(BLOCKS), loc="upper center", bbox_to_anchor=(0.5, -0.02), frameon=False, fontsize=9)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


if __name__ == "__main__":
    matplotlib.use("agg")
    draw(shown(Path(sys.argv[1])), Path(__file__).with_name("rollout.png"))
