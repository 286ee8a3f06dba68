"""Settings of what a method may change: its training, attribution, alignment and rewards; the verifier's too.

Read through :mod:`iapo.config.schema`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from iapo.config.sources import RERUNS_NOTHING, SETTINGS, Count, Positive, Rate
from iapo.types import TEST_SETS

Baseline = Literal["pad_image_mean", "pad", "mean_embedding", "zero", "flat_image"]
"""Start of the path: pad embedding for text with the image's mean token; pad everywhere; the vocabulary's
mean with the image's mean token; zero everywhere; pad with the features of a grey image."""


Quadrature = Literal["graded", "midpoint", "gauss_legendre"]
"""Points along the path: midpoints of graded cells, of equal ones, or Gauss–Legendre's."""


Partition = Literal["four_block", "items", "labels"]
"""Which tokens of a prompt are summed together."""


RewardForm = Literal["reward", "advantage", "varied", "flat", "right"]
"""Where a term enters: the reward, before normalisation; or the advantage, after it, in every group, only where the
outcome varies, only where it does not (bounded), or only among right rollouts."""


Tracker = Literal["trackio", "wandb", "tensorboard"]
"""Where a run's metrics can be sent besides its own file; also the name of the package that does it."""


@dataclass(frozen=True, config=SETTINGS)
class TrainConfig:
    """One GRPO run through TRL, the same for every method."""

    steps: Count = 60
    """Optimizer steps."""
    learning_rate: Positive = 5e-4
    """Constant after warm-up. 3e-3 collapses tiny models."""
    warmup_steps: Annotated[int, Field(ge=0)] = 3
    """Linear warm-up, steps."""
    groups_per_step: Count = 8
    """Prompts a step."""
    sets: tuple[str, ...] = TEST_SETS
    """Sets whose questions are rolled out, and asked for dev accuracy."""
    prompts_per_set: Count = 40
    """Training questions per set that are rolled out, the first of the train split."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Rollouts a prompt (G in GRPO)."""
    temperature: Positive = 1.0
    """Sampling temperature of the rollouts."""
    max_completion_length: Count | None = 48
    """Tokens of both turns and the tool's answer, image tokens included; null derives it from the data: two turns of
    `turn_tokens` and the longest answer of a tool."""
    turn_tokens: Count = 24
    """Longest turn that the derived length leaves room for, tokens; then no turn is longer, and with vLLM never."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus that the rollouts are sampled from."""
    rollouts: Literal["transformers", "vllm_colocate", "vllm_server"] = "transformers"
    """Who generates: the trained model itself, vLLM on the same GPU, or a vLLM server with the weights sent to it."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """TRL's loss aggregation."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the advantage is divided by."""
    reward_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Whether the sum of a reward's terms is normalised, or each term within its group and then the weighted sum over
    the step (GDPO, arXiv 2601.05242), which leaves `scale_rewards` out."""
    outcome_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the outcome reward; 0 shows what a method's other rewards do alone."""
    kl_beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL to the starting policy."""
    train_turns: Literal["both", "tool", "answer"] = "both"
    """Which turns reach the loss: all, the first, or the last (as VTool-R1's code). A rollout without a call has one
    turn, which is both."""
    save_every: Annotated[Count, RERUNS_NOTHING] = 10
    """Steps between resumable checkpoints."""
    report_to: Annotated[Tracker | None, RERUNS_NOTHING] = None
    """Also send each step's metrics to Trackio, Weights & Biases or TensorBoard, for every training of the run; nothing
    leaves the machine unless the tracker is told so (docs/track_and_share.md). null sends none."""
    dev_every: Annotated[int, Field(ge=0)] = 0
    """Steps between greedy answers to questions of the dev split, whose accuracy is kept in `metrics.csv`; the first
    are before step 1, the last after the last step. 0 asks none."""
    dev_per_set: Count = 25
    """Questions per set of the dev split that are asked then, its first."""
    average_last: Annotated[int, Field(ge=0)] = 0
    """Last steps whose weights are averaged into the policy that is saved; 0 saves those of the last step. Dev accuracy
    is of the weights of its step."""


@dataclass(frozen=True, config=SETTINGS)
class AttributionConfig:
    """Attribution of the tool call over the prompt's blocks. Defaults are the student's.

    Student and teacher must share everything but the points: the baseline moves the distribution more than any
    quadrature.
    """

    method: Literal["integrated_gradients", "shapley", "attention"] = "integrated_gradients"
    """shapley: exact over the four blocks by 16 forward passes, another quantity. attention: a control."""
    n_steps: Count = 7
    """Points on the path from baseline to input."""
    quadrature: Quadrature = "graded"
    """Where the points lie: in the middle of cells that narrow towards the baseline, where models bend most, or of
    equal cells, of which mini needs a tenth more. Gauss–Legendre's err by twice as much, and none is kept when a row
    is refined."""
    tolerance: Positive = 0.12
    """What a rule of midpoints may miss of the change in log-probability between two neighbouring points, as a share of
    the whole change; where it misses more, one point is added between them. With Gauss–Legendre: what it may miss of
    the whole before a row gets three times as many points."""
    control_variate: bool = True
    """Whether the blocks are made to add up to the whole, which is known exactly: what the points miss of it goes to
    each block by its regression on the whole along the path. Halves the teacher's error at equal points."""
    magnitudes: bool = False
    """Whether the sums of the tokens' magnitudes are kept too, as `alignment.aggregation: l1` needs. They take every
    token's gradient; without them, calls that share a prompt take .4 of the time on small models."""
    baseline: Baseline = "pad_image_mean"
    """Text and image tokens at the path's start. zero is no baseline under RMSNorm: completeness fails."""
    blocks: Partition = "four_block"
    """four_block: P, R, I, T. items: each image and tool definition its own. labels: labels in text and image apart."""
    target: Literal["call", "turn"] = "call"
    """What is attributed: the tool calls with their tags, or all that the turn says."""
    tokens_per_forward: Annotated[Count, RERUNS_NOTHING] = 1536
    """Points × calls × length in one forward pass; bounds memory, never the result."""
    max_tokens: Count = 16384
    """Longest prompt and call; a longer one is left out, with its group, and counted. A forward pass holds at least
    one point of one prompt: 8,000 tokens took under 1 GB on mini's models."""


@dataclass(frozen=True, config=SETTINGS)
class AlignmentConfig:
    """From two attributions to one penalty."""

    weight: Annotated[float, Field(ge=0)] = 0.5
    """Lambda: penalty subtracted from the outcome reward, reward units per unit divergence. Assumed."""
    form: RewardForm = "reward"
    """reward (the paper): in the reward, whose group-wise normalisation cancels lambda in groups of equal outcomes. The
    others add lambda times the centred penalty to the normalised advantage: advantage, in every group; varied, where
    outcomes differ; flat, where they are equal, at most 1; right, centred over the group's right rollouts alone."""
    divergence: Literal["js", "kl_student_teacher", "kl_teacher_student"] = "js"
    """js is divided by ln 2 and bounded by 1. The paper uses a KL whose direction is not public."""
    max_divergence: Positive | None = None
    """Larger divergences are cut to this; null leaves them."""
    smoothing: Positive = 1e-3
    """Mass added to every block before renormalising, no unit."""
    aggregation: Literal["signed", "l1", "length_normalised"] = "signed"
    """A block's magnitude: of its signed sum, the sum of magnitudes, or the signed sum per token."""
    reference: Literal["same_call", "teacher_call"] = "same_call"
    """The teacher's attribution of the student's call (the paper), or of the teacher's own first call."""
    contrastive: bool = False
    """Attribute a call minus the mean of its alternatives: the group's other calls, the cached other calls."""
    normalise: Literal["none", "batch"] = "none"
    """batch: the penalty enters as its z-score over the step's rollouts."""
    missing_call: Literal["group_mean", "bound"] = "group_mean"
    """Penalty of a rollout without a valid call: its group's mean, or the bound (1, or `max_divergence`)."""
    loss_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the divergence as a differentiable loss beside the policy's, four points, a call a group."""
    from_step: Annotated[int, Field(ge=0)] = 20
    """`iapo_two_stage`: steps on the outcome alone before the penalty counts. Assumed: the paper has two stages of
    unknown lengths. No other method reads it."""
    teacher: Literal["cache", "shuffled", "uniform", "self"] = "cache"
    """Controls: the prompt's rows permuted over its calls, anew for each seed; equal shares; the student's own shares
    (penalty 0)."""


@dataclass(frozen=True, config=SETTINGS)
class RewardsConfig:
    """What the tool rewards of the baselines weigh beside the outcome's 1; `tuning` scales them on the dev split."""

    failed_call: Annotated[float, Field(ge=0)] = 0.25
    """ToRL: subtracted where a call does not parse, validate or execute. ToRL's own: .5 on rewards of ±1, so .25 here,
    off in its default runs. What IAPO's authors used for it is not public."""
    verdict: Annotated[float, Field(ge=0)] = 0.5
    """TRM: times the verifier's verdict on the tool use, 0 or 1. Assumed."""
    exact_match: Annotated[float, Field(ge=0)] = 1.0
    """Exact match: added where the call names the annotated labels."""
    executed_call: Annotated[float, Field(ge=0)] = 0.5
    """Call bonus: added where a call was carried out, whatever it shows."""
    teacher_calls: Annotated[float, Field(ge=0)] = 1.0
    """Distillation: weight of the loss on the teacher's own right calls, beside the policy's loss. Assumed."""
    teacher_kl: Annotated[float, Field(ge=0)] = 1.0
    """Distillation: weight of the KL to the teacher on the student's first turns, beside the policy's loss. Assumed."""


@dataclass(frozen=True, config=SETTINGS)
class VerifierConfig:
    """Who judges a tool use for `trm`."""

    kind: Literal["teacher", "server"] = "teacher"
    """teacher: does the trained teacher come to the same answer from the student's edited image as from its own?
    server: an OpenAI-compatible one. Neither sees the gold answer."""
    base_url: Annotated[str, RERUNS_NOTHING] = "http://localhost:8000/v1"
    """Of the server. Credentials in it (`user:token@`) are sent as a header, and kept out of records and messages."""
    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """The server's name of the judge. Assumed."""
    key_variable: Annotated[str, RERUNS_NOTHING] = "OPENAI_API_KEY"
    """Environment variable with the server's key; unset sends a placeholder, as local servers want."""
    timeout: Annotated[Positive, RERUNS_NOTHING] = 60.0
    """Longest time for one verdict, seconds, all attempts together. The pauses between them take at most as long again,
    and those that the server asks for (`Retry-After`) at most 120 s."""
    retries: Annotated[int, Field(ge=0)] = 3
    """Further attempts after a failure that may pass or a reply without a verdict."""
    reply_tokens: Count = 64
    """Longest reply, tokens, thinking included; a judge that thinks first needs thousands."""
    max_failures: Rate = 0.05
    """Share of questions without a verdict above which training stops, once 20 were asked."""
