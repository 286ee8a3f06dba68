"""GRPO training with TRL: one trainer and one driver for all methods, with guards, monitors and checkpoints.

A method adds reward functions and, where these need more columns, its own trainer on top of the shared one.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iapo.training.attribution_mixin import AttributionMixin
    from iapo.training.run import train
    from iapo.training.trainer import FigureTrainer

__all__ = ["AttributionMixin", "FigureTrainer", "train"]


def __getattr__(name: str) -> object:
    # torch is loaded when one of these is asked for, so that planning and tables, which need others, stay without it.
    if name == "train":
        from iapo.training.run import train

        return train
    if name == "FigureTrainer":
        from iapo.training.trainer import FigureTrainer

        return FigureTrainer
    if name == "AttributionMixin":
        from iapo.training.attribution_mixin import AttributionMixin

        return AttributionMixin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
