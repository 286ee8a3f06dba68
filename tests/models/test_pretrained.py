"""A downloaded model made ready: its template, its pixel bounds, its weights in one file; what a rollout needs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from iapo.config.sources import PretrainedConfig, RepositoryConfig
from iapo.data.prompts import open_image, prompt_messages
from iapo.data.store import figure_to_json
from iapo.models.loading import load_model
from iapo.models.pretrained import prepare
from iapo.rollout.environment import ENVIRONMENTS, answer_tool_calls, tool_schemas
from iapo.rollout.lengths import longest_completion
from iapo.rollout.two_turn import tool_suffix_ids
from iapo.types import Example

SETTINGS = PretrainedConfig(RepositoryConfig("owner/name", "0" * 40), min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 9)


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any]) -> Path:
    """A model in several shards with a template without tools and its own ideas of sampling."""
    model, processor = tiny
    folder = tmp_path_factory.mktemp("downloaded")
    model.save_pretrained(folder, max_shard_size="100KB")
    sampling = {"eos_token_id": [processor.tokenizer.eos_token_id], "temperature": 0.1, "repetition_penalty": 1.3}
    (folder / "generation_config.json").write_text(json.dumps(sampling))
    processor.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def prepared(downloaded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "model"
    prepare(downloaded, output, SETTINGS)
    return output


def test_the_weights_are_the_same_in_one_file(prepared: Path, tiny: tuple[Any, Any]) -> None:
    assert [path.name for path in prepared.glob("*.safetensors")] == ["model.safetensors"]
    weights, before = load_model(prepared)[0].state_dict(), tiny[0].state_dict()
    assert weights.keys() == before.keys() and all(torch.equal(weights[name], before[name]) for name in before)


def test_sampling_is_not_bent_by_the_checkpoint(prepared: Path) -> None:
    model, processor = load_model(prepared)
    generation = model.generation_config
    # The checkpoint names none here.
    assert generation.pad_token_id == processor.tokenizer.pad_token_id
    assert generation.repetition_penalty in (None, 1.0) and generation.temperature in (None, 1.0)
    assert generation.eos_token_id


def test_the_template_has_room_for_tools_and_the_images_keep_their_bounds(
    prepared: Path, test_examples: list[Example]
) -> None:
    processor = load_model(prepared)[1]
    example = test_examples[0]
    text = processor.apply_chat_template(
        prompt_messages(example), tools=list(tool_schemas(example.figure.kind)), tokenize=False
    )
    assert all(schema["function"]["name"] in text for schema in tool_schemas(example.figure.kind))
    large = open_image(example).resize((280, 280))
    grid = processor.image_processor(images=[large], return_tensors="pt")["image_grid_thw"][0]
    assert 4 <= grid.prod() // 4 <= 9


def test_the_derived_length_holds_every_answer_of_a_tool(tiny: tuple[Any, Any], test_examples: list[Example]) -> None:
    processor = tiny[1]
    lengths = []
    for example in test_examples[::10]:
        environment = ENVIRONMENTS[example.figure.kind]()
        environment.reset(figure=figure_to_json(example.figure), images=[open_image(example)])
        family, boxes = next(iter(example.figure.boxes.items()))
        name = f"focus_on_{family}_with_mask"
        call = {"function": {"name": name, "arguments": {f"{family}_to_focus_on": [next(iter(boxes))]}}}
        lengths.append(len(tool_suffix_ids(processor, answer_tool_calls(environment, [call]))))
    assert longest_completion(processor, test_examples[::10], 24) == 48 + max(lengths)
