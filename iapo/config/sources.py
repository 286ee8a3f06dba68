"""Where pretrained models and ReFocus's data come from, and what a run may use of the machine.

Read through :mod:`iapo.config.schema`. Values of the paper's profile that the paper does not give are labelled in
``config/paper.yaml``, each with its source.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

SETTINGS = ConfigDict(extra="forbid", use_attribute_docstrings=True)


RERUNS_NOTHING = Field(json_schema_extra={"reruns": False})
"""Marks a setting that bounds memory or time, or says where something is, and never changes a result."""

Count = Annotated[int, Field(ge=1)]


RowName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


Precision = Literal["float32", "bfloat16"]


EngineName = Literal["transformers", "vllm"]

Rate = Annotated[float, Field(ge=0, le=1)]


Positive = Annotated[float, Field(gt=0)]


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Revision = Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]


Strategy = Literal["ddp", "fsdp2", "zero2"]


@dataclass(frozen=True, config=SETTINGS)
class RepositoryConfig:
    """One repository of the hub at one commit."""

    repo: str
    """Owner and name."""
    revision: Revision
    """Commit. It pins every file's content: large files by their sha256, the others by git's."""
    sha256: dict[str, Digest] = field(default_factory=dict)
    """File → digest that must be found; a file that is not named is held against the hub's own listing of the
    commit, and its digest recorded."""


@dataclass(frozen=True, config=SETTINGS)
class PretrainedConfig:
    """A pretrained Qwen2.5-VL in place of a tiny model made from random weights."""

    source: RepositoryConfig
    """Its repository."""
    min_pixels: Count = 262144
    """Smaller images are enlarged to this, pixels. Assumed (VTool-R1)."""
    max_pixels: Count = 4194304
    """Larger images are reduced to this, pixels. Assumed (VTool-R1)."""


@dataclass(frozen=True, config=SETTINGS)
class PromptConfig:
    """The text of a prompt that released weights were trained with, downloaded since it is others' work."""

    address: str
    """Where it is, an address or the path of a copy."""
    sha256: Digest
    """Digest that it must have."""


@dataclass(frozen=True, config=SETTINGS)
class ReleasedConfig:
    """Weights that others have trained and published."""

    model: PretrainedConfig
    """Their repository, and the bounds on an image's area that they were trained with."""
    prompt: PromptConfig
    """What they were trained to answer to: VTool-R1's template with a place for the request."""


@dataclass(frozen=True, config=SETTINGS)
class RefocusConfig:
    """ReFocus_Data in place of the mini world."""

    source: RepositoryConfig
    """Its repository."""
    seed: int = 20260611
    """Seed of the splits by figure."""
    dev_rate: Rate = 0.05
    """Share of the figures held out for choosing settings; never reported."""
    table_test_rate: Rate = 0.3
    """Share of the tables that is tested on; ReFocus has no split for them. VTool-R1 took as much, by question."""
    expected: dict[str, Annotated[int, Field(ge=0)]] = field(default_factory=dict)
    """``<split>/<set>`` → questions, or a file's name → records, that must be found; what is not named is reported and
    not asserted."""
    max_missing_figures: Rate = 0.01
    """Share of a file's records whose figure may be missing; they are left out and named."""


@dataclass(frozen=True, config=SETTINGS)
class HubConfig:
    """Where repositories are downloaded from."""

    address: str = "https://huggingface.co"
    """The hub, or a folder with ``<owner>/<name>/`` below it: what you have already, or an offline machine's copy."""
    downloads: str = "resources/hub"
    """Folder for what is downloaded, shared by all profiles. A download that was cut off goes on from there."""


@dataclass(frozen=True, config=SETTINGS)
class HardwareConfig:
    """What one job may use. None of it changes what is computed, but for rounding."""

    processes: Count = 1
    """Processes of one training job, one GPU each."""
    strategy: Strategy = "ddp"
    """How they share the model: copies, or shards (FSDP2; ZeRO-2 by DeepSpeed)."""
    rollouts_per_forward: Count | None = None
    """Rollouts in one backward pass of one process; null takes all of a step. Fewer need less memory."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    precision: Precision = "float32"
    """Of the weights of models that only run, those beneath adapters included. Trained ones are float32 with bfloat16
    arithmetic on a GPU, since small updates are lost in bfloat16."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """Rank of the adapters that are trained in place of all weights, merged into them at the end; 0 trains all."""
    cache_jobs: Annotated[Count, RERUNS_NOTHING] = 1
    """Jobs that make one teacher's cache, each with one GPU and a part of the prompts; what they made is joined. With
    another number rows that are there are taken over."""
    trials_on_one_gpu: Annotated[bool, RERUNS_NOTHING] = False
    """Train each trial of a weight in one process instead of `processes`, where one GPU holds it: several methods'
    trials run side by side."""
    memory_gb: Annotated[Positive | None, RERUNS_NOTHING] = None
    """Memory of one GPU, GB; null asks the machine. The estimate before a run is held against it."""
    disk_gb: Annotated[Positive | None, RERUNS_NOTHING] = None
    """Free disk that a run needs, GB; null takes the estimate's."""
    tflops: Annotated[Positive | None, RERUNS_NOTHING] = None
    """Sustained bfloat16 arithmetic of one GPU, TFLOP/s, for the estimate; null takes a range, from what public runs
    came to on H100s (80 for models up to 5 billion parameters, 160 for larger ones) to 40 % of an H100's peak (400)."""
    bandwidth_tb: Annotated[Positive | None, RERUNS_NOTHING] = None
    """Sustained memory bandwidth of one GPU, TB/s, for the estimate; null takes a range, from 1 to 60 % of an H100's
    peak (2)."""
    measured: Annotated[str | None, RERUNS_NOTHING] = None
    """A measured card's file, as `results/reference/gpu_<card>.json` of `make gpu_check`: what it says of `tflops` and
    `bandwidth_tb` takes their place in the estimate."""
    vllm_memory: Annotated[float, Field(gt=0, lt=1), RERUNS_NOTHING] = 0.3
    """Share of a GPU's memory for vLLM where it shares the GPU with training."""
    vllm_server: Annotated[str, RERUNS_NOTHING] = "http://localhost:8000"
    """Address of the server where rollouts come from one (`train.rollouts: vllm_server`)."""

    @property
    def of_trials(self) -> HardwareConfig:
        """What a trial of a weight may use."""
        return replace(self, processes=1, strategy="ddp") if self.trials_on_one_gpu else self
