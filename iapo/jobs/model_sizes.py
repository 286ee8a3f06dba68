"""How large a Qwen2.5-VL is: what the estimate of a run's memory and time follows from. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from iapo.config.sources import HubConfig, RepositoryConfig

PATCH = 14
"""Side of a vision patch, pixels."""


MERGED = 4
"""Patches in one image token."""


TOKEN_PIXELS = PATCH * PATCH * MERGED


_PATCH_VALUES = 3 * 2 * PATCH * PATCH
"""Colours × frames × pixels of a patch."""


class UnknownModelError(ValueError):
    """Neither the table nor a downloaded ``config.json`` knows the model's sizes."""


class UnsupportedModelError(ValueError):
    """A model of another family, whose attribution and rollouts are not here."""


FAMILY = "qwen2_5_vl"
"""``model_type`` of the models that can be trained and attributed."""


@dataclass(frozen=True)
class ModelSize:
    """Widths and depths of the language model and of the vision tower."""

    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """Whether the head is the embeddings."""
    vision_layers: int = 32
    vision_hidden: int = 1280
    vision_mlp: int = 3420

    @property
    def kv_width(self) -> int:
        """Channels of a layer's keys, and of its values."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings, and of the head where it has its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer; only queries, keys and values have biases."""
        attention = 2 * self.hidden**2 + self.hidden + 2 * self.kv_width * (self.hidden + 1)
        return attention + 3 * self.hidden * self.mlp + 2 * self.hidden

    @property
    def language(self) -> int:
        """Parameters that every token meets: the layers and the head."""
        return self.layers * self.layer + self.hidden + self.vocabulary * self.hidden

    @property
    def vision(self) -> int:
        """Parameters that every patch meets. The merger's are met once in four patches; they are 5 % of it."""
        wide, merged = self.vision_hidden, self.vision_hidden * MERGED
        block = 4 * wide**2 + 4 * wide + 3 * wide * self.vision_mlp + 2 * self.vision_mlp + wide + 2 * wide
        merger = wide + merged**2 + merged + merged * self.hidden + self.hidden
        return _PATCH_VALUES * wide + self.vision_layers * block + merger

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer + self.hidden + self.embeddings + self.vision

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA on every projection of the language model."""
        h, f, kv = self.hidden, self.mlp, self.kv_width
        return self.layers * rank * (2 * (h + h) + 2 * (h + kv) + 3 * (h + f))


_KNOWN = {
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelSize(36, 2048, 11008, 16, 2, 151936, tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": ModelSize(28, 3584, 18944, 28, 4, 152064, tied=False),
    # Published with a head of its own.
    "VTOOL/VTool-Qwen2.5-3B": ModelSize(36, 2048, 11008, 16, 2, 151936, tied=False),
    "VTOOL/VTool-Qwen2.5-7B": ModelSize(28, 3584, 18944, 28, 4, 152064, tied=False),
}
"""From the models' ``config.json``."""


def learn_sizes(source: RepositoryConfig, hub: HubConfig) -> None:
    """Download a model's ``config.json`` alone, so that its sizes are known before a run is planned.

    Args:
        source: repository and commit of the model; one of the table, or one whose file is here, is not asked for.
        hub: where it is.

    Raises:
        HubError: the hub cannot be reached or has no such file.
    """
    if source.repo in _KNOWN or _config_file(source, hub).exists():
        return
    # A second's import, for models that are not in the table alone.
    from iapo.hub.download import fetch

    fetch(source, hub, files=["config.json"], kind="model", into=_planned(source, hub))


def _planned(source: RepositoryConfig, hub: HubConfig) -> Path:
    return Path(hub.downloads) / "planned" / source.repo


def _config_file(source: RepositoryConfig, hub: HubConfig) -> Path:
    """Of the downloaded model, or of its plan."""
    downloaded = Path(hub.downloads) / source.repo / "config.json"
    return downloaded if downloaded.exists() else _planned(source, hub) / "config.json"


def model_size(source: RepositoryConfig, hub: HubConfig) -> ModelSize:
    """The sizes of a pretrained model, from the table or from its ``config.json`` where that is downloaded.

    Raises:
        UnknownModelError: for a model that is in neither.
        UnsupportedModelError: for a model of another family.
    """
    if source.repo in _KNOWN:
        return _KNOWN[source.repo]
    try:
        facts = json.loads(_config_file(source, hub).read_text())
        if facts.get("model_type") != FAMILY:
            raise UnsupportedModelError(
                f"{source.repo}: found model_type {facts.get('model_type')!r}, expected {FAMILY!r}; attribution, "
                "rollouts and the prompt are this family's, so choose a Qwen2.5-VL"
            )
        # One level since transformers 5, none in the published files.
        text, vision = facts.get("text_config", facts), facts["vision_config"]
        return ModelSize(
            layers=text["num_hidden_layers"],
            hidden=text["hidden_size"],
            mlp=text["intermediate_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            vocabulary=text["vocab_size"],
            tied=facts.get("tie_word_embeddings", text.get("tie_word_embeddings", False)),
            vision_layers=vision["depth"],
            vision_hidden=vision["hidden_size"],
            vision_mlp=vision["intermediate_size"],
        )
    except UnsupportedModelError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise UnknownModelError(
            f"{source.repo}: found no sizes of it ({error}), so memory and time are not known; expected a Qwen2.5-VL, "
            f"since no other family can be trained: {', '.join(_KNOWN)}, or another one once a run has downloaded it"
        ) from None
