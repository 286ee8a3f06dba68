"""Qwen2.5-VL models and processors: tiny ones built from random weights, and downloaded ones prepared for training.

Also how models are loaded and saved, which matmuls run in bf16, TF32 or fp32, and how FSDP shards are gathered.
"""

from iapo.models.loading import load_model, save_model
from iapo.models.processor import build_processor
from iapo.models.tiny import build_model

__all__ = ["build_model", "build_processor", "load_model", "save_model"]
