"""Saving of figures, and the matplotlib settings they share: no display, a colour-blind-safe style."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from iapo.artifacts.files import atomic_write

mpl.use("Agg")
plt.style.use("tableau-colorblind10")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it; the same data give the same bytes."""
    with atomic_write(path) as tmp:
        figure.savefig(tmp, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
