"""Settings of the mini world and of the cold start of tiny models; read through :mod:`iapo.config.schema`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from iapo.config.sources import SETTINGS, Count, Positive, PretrainedConfig, Rate, RefocusConfig


@dataclass(frozen=True, config=SETTINGS)
class DataConfig:
    """The mini world: gapminder tables drawn as charts, tables and panels."""

    seed: int = 20260611
    """Seed of the splits and of the sampled figures."""
    train_per_set: Count = 1200
    """Questions per set for the cold starts; reinforcement learning uses the first few of them."""
    dev_per_set: Count = 40
    """Questions per set for choosing settings and checkpoints; never reported."""
    test_per_set: Count = 150
    """Questions per set behind every reported figure."""
    labels_per_figure: Annotated[int, Field(ge=2, le=8)] = 5
    """Rows, columns or bars in a figure; sub-figure sets always have ten panels."""
    value_unit: Literal[1, 2, 5, 10] = 10
    """What the values are rounded to multiples of. With tens, a wrong call often shows the right answer by chance; with
    ones seldom."""
    smudge_rate: Rate = 0.3
    """Share of the values that are smudged: what no tool makes readable has to be guessed."""
    ask_first_label: bool = True
    """Whether dev, test and the first training questions ask for a figure's first label. Where they do, a policy that
    always calls the first label is right now and then."""
    hint_rate: Rate | None = None
    """Shortcut world: the plain text names a label, the right one at this rate in training (else, and elsewhere,
    any label); null has no hints."""
    refocus: RefocusConfig | None = None
    """ReFocus_Data in place of the mini world, whose counts and labels above then mean nothing."""


@dataclass(frozen=True, config=SETTINGS)
class ModelConfig:
    """A tiny Qwen2.5-VL, trained from scratch, or a pretrained one."""

    hidden_size: Count = 64
    """Width of the language model, channels; divisible by 4 heads and, per head, by 2."""
    num_layers: Count = 2
    """Decoder layers."""
    vision_hidden_size: Count = 32
    """Width of the patch embedding, channels."""
    vision_depth: Annotated[int, Field(ge=0)] = 0
    """Vision blocks; 0 keeps the patch embedding and the merger only, which reads printed cells."""
    initializer_range: Positive = 0.06
    """Standard deviation of the initial weights; tiny models need more than the usual 0.02."""
    pretrained: PretrainedConfig | None = None
    """A downloaded model in place of a tiny one, whose sizes above then mean nothing. It has no supervised stages."""


@dataclass(frozen=True, config=SETTINGS)
class DemonstrationConfig:
    """How good the demonstrations of the cold start are. Imperfect on purpose: RL needs room.

    The faults must be systematic (the first label is named too often), since greedy decoding hides
    unbiased noise.
    """

    tool_rate: Rate = 0.85
    """Share of demonstrations that call a tool."""
    right_family_rate: Rate = 0.92
    """Of the calls: share whose tool fits the figure; the others fail and the answer is a guess."""
    right_label_rate: Rate = 0.25
    """Of the fitting calls: share that name the label asked for."""
    first_label_rate: Rate = 0.8
    """Of the wrongly labelled calls: share that name the first label listed; the rest are random."""
    mode_weights: tuple[float, float, float] = (0.2, 0.35, 0.45)
    """Relative frequency of mask, draw and highlight."""
    known_tool_rate: Rate = 1.0
    """Of the calls: share to a tool that exists; the others want to zoom, for which there is none, and fail."""
    hint_rate: Rate = 0.0
    """Shortcut world: share whose hint names the label that is called, whatever is asked; else any label."""
    thought: bool = False
    """Whether a call follows a short thought that names its label and where it is from."""


@dataclass(frozen=True, config=SETTINGS)
class HabitConfig:
    """One more supervised stage, which teaches a policy that can make right calls the habit of seldom making them.

    A pretrained model is like that: it could name the right label long before it does so by itself.
    """

    demonstrations: DemonstrationConfig
    """What it imitates; the policy's rate of right calls comes to be about their `right_label_rate`."""
    steps: Count = 150
    """Steps on demonstrations, of `student.cold_start.batch_size` each."""
    learning_rate: Positive = 1.5e-3
    """Peak AdamW learning rate."""
    seed: int = 100
    """Seed of the demonstrations and their order; each start adds its number."""


@dataclass(frozen=True, config=SETTINGS)
class ColdStartConfig:
    """Supervised stages that turn random weights into a policy that RL can improve."""

    glyph_steps: Count = 80
    """Steps that align the vision tower with single printed cells."""
    reading_steps: Count = 400
    """Steps at most on short sequences: read the only number left in the figure. Ends once that is learned."""
    calling_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at most on short sequences: call the label that is asked for, from the prompt's text alone. Ends once
    that is learned."""
    demonstration_steps: Count = 900
    """Steps on whole demonstrations with a tool turn."""
    batch_size: Count = 32
    """Demonstrations a step."""
    reading_batch_size: Count = 96
    """Reading and calling exercises a step."""
    learning_rate: Positive = 3e-3
    """Peak AdamW learning rate."""
    seed: int = 0
    """Seed of the weights, the demonstrations and their order."""
    demonstrations: DemonstrationConfig = DemonstrationConfig()
    """Quality of the demonstrations."""
    habit: HabitConfig | None = None
    """A last stage; its seed adds `seed`. null ends with the demonstrations."""
