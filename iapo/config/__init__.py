"""Every setting of a run, validated, with its meaning and default; and what a method is.

A profile in ``config/*.yaml`` is one :class:`Config`. Nothing here imports torch, so that Snakemake can plan.
"""

from iapo.config.method import AlignmentConfig, AttributionConfig, RewardsConfig, TrainConfig, VerifierConfig
from iapo.config.method_registry import Method, RewardTerm, resolve
from iapo.config.schema import Config, ConfigError, load_config, with_overrides

__all__ = [
    "AlignmentConfig",
    "AttributionConfig",
    "Config",
    "ConfigError",
    "Method",
    "RewardTerm",
    "RewardsConfig",
    "TrainConfig",
    "VerifierConfig",
    "load_config",
    "resolve",
    "with_overrides",
]
