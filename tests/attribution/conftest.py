"""Models and prompts for the attribution: random ones without tokenizer or data, and rendered prompts with calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from iapo.attribution.batch import example_inputs
from iapo.data.prompts import prompt_messages
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.turns import PromptInputs, ToolTurn, turn_ids
from iapo.tools.parsing import render_call
from iapo.types import Example, ToolCall

PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO = range(7)
WORDS = range(7, 48)
PATCH = 4
NONE, P, R, I, T = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class Row:
    """One prompt with its tool call, unpadded."""

    ids: tuple[int, ...]
    blocks: tuple[int, ...]
    target: tuple[bool, ...]
    grids: tuple[tuple[int, int, int], ...]
    pixels: Tensor
    """[patches, channels]"""


Collate = Callable[..., dict[str, Tensor]]


@pytest.fixture(scope="session", params=[0, 1], ids=["no-vision-blocks", "one-vision-block"])
def tiny_model(request: pytest.FixtureRequest) -> Qwen2_5_VLForConditionalGeneration:
    """In eval mode; 32 channels, 2 layers, fp32."""
    torch.manual_seed(request.param)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(WORDS) + WORDS.start,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "initializer_range": 0.1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]},
            "bos_token_id": PAD,
            "eos_token_id": END,
            "pad_token_id": PAD,
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": request.param,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [],
            "initializer_range": 0.1,
        },
        initializer_range=0.1,  # type: ignore[call-arg]
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    # torch starts the pad embedding at zero, where RMSNorm makes the path too rough for any quadrature.
    with torch.no_grad():
        model.get_input_embeddings().weight[PAD].normal_(std=0.1)
    return model


@pytest.fixture(scope="session")
def tiny_rows() -> list[Row]:
    """One image, two images of different sizes, no image; the second row has its target in two spans."""
    generator = torch.Generator().manual_seed(3)
    return [
        _row(generator, grids=((1, 4, 4),), lengths=(5, 3, 4), spans=(4,)),
        _row(generator, grids=((1, 2, 6), (1, 4, 2)), lengths=(3, 6, 2), spans=(3, 2)),
        _row(generator, grids=(), lengths=(4, 2, 3), spans=(3,)),
    ]


def _row(
    generator: torch.Generator,
    *,
    grids: tuple[tuple[int, int, int], ...],
    lengths: tuple[int, int, int],
    spans: tuple[int, ...],
) -> Row:
    """Template, tools, images, plain text, request, template, then targets with fixed text between them."""
    plain, request, tools = lengths
    parts: list[tuple[list[int], int, bool]] = [([START], NONE, False), (_words(generator, tools), T, False)]
    for t, height, width in grids:
        image = [IMAGE] * (t * height * width // 4)
        parts += [([VISION_START], NONE, False), (image, I, False), ([VISION_END], NONE, False)]
    parts += [(_words(generator, plain), P, False), (_words(generator, request), R, False)]
    for span in spans:
        parts += [([END], NONE, False), (_words(generator, span), NONE, True)]
    patches = sum(t * height * width for t, height, width in grids)
    return Row(
        ids=tuple(token for tokens, _, _ in parts for token in tokens),
        blocks=tuple(block for tokens, block, _ in parts for _ in tokens),
        target=tuple(target for tokens, _, target in parts for _ in tokens),
        grids=grids,
        pixels=torch.randn(patches, 3 * 2 * PATCH * PATCH, generator=generator),
    )


def _words(generator: torch.Generator, count: int) -> list[int]:
    return torch.randint(WORDS.start, WORDS.stop, (count,), generator=generator).tolist()


@pytest.fixture(scope="session")
def collate() -> Collate:
    """``collate(rows, side="left", extra=0)``: a batch, ``extra`` columns wider than its longest row."""
    return _collate


def _collate(rows: Sequence[Row], side: str = "left", extra: int = 0) -> dict[str, Tensor]:
    width = max(len(row.ids) for row in rows) + extra

    def padded(name: str, filler: int) -> Tensor:
        values = [list(getattr(row, name)) for row in rows]
        blanks = [[filler] * (width - len(each)) for each in values]
        pairs = zip(blanks, values, strict=True)
        return torch.tensor([b + v if side == "left" else v + b for b, v in pairs])

    ids = padded("ids", PAD)
    batch: dict[str, Any] = {
        "input_ids": ids,
        # No row uses the pad token itself.
        "attention_mask": (ids != PAD).long(),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "target_mask": padded("target", 0).bool(),
        "block_ids": padded("blocks", NONE),
    }
    grids = [grid for row in rows for grid in row.grids]
    if grids:
        batch["pixel_values"] = torch.cat([row.pixels for row in rows])
        batch["image_grid_thw"] = torch.tensor(grids)
    return batch


@pytest.fixture(scope="session")
def tiny_batch(tiny_rows: list[Row]) -> dict[str, Tensor]:
    """All rows, left-padded."""
    return _collate(tiny_rows)


@pytest.fixture(scope="session")
def targetless(tiny_rows: list[Row]) -> Row:
    """The first row with nothing to attribute."""
    return replace(tiny_rows[0], target=(False,) * len(tiny_rows[0].target))


PromptOf = Callable[..., PromptInputs]


@pytest.fixture(scope="session")
def prompt_of(tiny: tuple[Any, Any]) -> PromptOf:
    """``prompt_of(example, partition="four_block")``: the example's prompt, rendered for the tiny model."""
    processor = tiny[1]

    def render(example: Example, partition: Any = "four_block") -> PromptInputs:
        encoded = encode_prompt(processor, prompt_messages(example), example.figure.kind)
        return example_inputs(processor, example, encoded, partition)

    return render


@pytest.fixture(scope="session")
def turns(tiny: tuple[Any, Any], test_examples: list[Example], prompt_of: PromptOf) -> list[ToolTurn]:
    """Three prompts of different kinds, with three, two and one calls."""
    found = []
    for count, example in zip((3, 2, 1), test_examples[::90], strict=False):
        inputs = prompt_of(example)
        family, boxes = next(iter(example.figure.boxes.items()))
        for label, mode in zip(list(boxes)[:count], ("mask", "draw", "highlight"), strict=False):
            text = render_call(ToolCall(f"focus_on_{family}_with_{mode}", (label,)))
            found.append(ToolTurn(inputs, turn_ids(tiny[1].tokenizer, text), text))
    assert len(found) == 6
    return found
