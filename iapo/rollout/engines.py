"""Loading of a policy that only writes turns, by transformers or into an engine."""

from __future__ import annotations

from pathlib import Path

from iapo.config.sources import EngineName, Precision
from iapo.models.interfaces import PixelBounds, Processor
from iapo.models.loading import load_model, load_processor
from iapo.rollout.generation import Writer


def load_writer(
    directory: Path,
    engine: EngineName,
    *,
    device: str,
    precision: Precision,
    seed: int = 0,
    pixels: PixelBounds | None = None,
) -> tuple[Writer, Processor]:
    """Load a policy to answer or to be sampled from.

    Args:
        directory: pretrained directory.
        engine: what runs it; vLLM takes its GPU whole.
        device: where transformers runs it.
        precision: dtype of the weights.
        seed: of what vLLM samples; transformers takes torch's.
        pixels: bounds on an image's area other than the saved processor's.
    """
    writer: Writer
    if engine == "transformers":
        writer, processor = load_model(directory, device=device, precision=precision)
    else:
        # Not installed everywhere.
        from iapo.rollout.vllm_engine import VllmEngine

        writer = VllmEngine(directory, precision=precision, seed=seed, pixels=pixels)
        processor = load_processor(directory)
    if pixels:
        processor.image_processor.size = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
    return writer, processor
