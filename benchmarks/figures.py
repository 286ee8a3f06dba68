"""How every figure is written: no display, colours that the colour-blind can tell apart, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from iapo.provenance import atomic_write

mpl.use("Agg")
plt.style.use("tableau-colorblind10")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG and close the figure; the same data give the same bytes."""
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
