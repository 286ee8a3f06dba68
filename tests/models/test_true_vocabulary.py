"""With Qwen2.5-VL's true vocabulary, processor and image sizes: blocks, prompt lengths, the syntax of calls."""

from typing import Any

import pytest
from PIL import Image
from trl.chat_template_utils import parse_response, qwen3_vl_chat_template

from benchmarks.rehearsal.qwen import true_processor
from benchmarks.rehearsal.refocus_fixture import write_fixture
from iapo.attribution.partition import NO_BLOCK, I, P, R, T, block_ids
from iapo.config.sources import RefocusConfig, RepositoryConfig
from iapo.data.prompts import open_image, prompt_messages
from iapo.data.refocus.reader import read_refocus
from iapo.models.processor import set_response_template
from iapo.rollout.encoding import encode_prompt
from iapo.rollout.environment import tool_schemas
from iapo.rollout.lengths import longest_completion
from iapo.tools.parsing import parse_turn, render_call
from iapo.tools.registry import TOOLS
from iapo.types import Example, FigureKind, ToolCall

LEAST, MOST = 262144, 2097152
"""Pixels, as in config/paper.yaml."""
KINDS: list[FigureKind] = ["h_bar", "v_bar", "table", "subfigures"]


@pytest.fixture(scope="module")
def processor() -> Any:
    """As a prepared download has it."""
    processor = true_processor()
    processor.chat_template = processor.tokenizer.chat_template = qwen3_vl_chat_template
    processor.image_processor.size = {"shortest_edge": LEAST, "longest_edge": MOST}
    set_response_template(processor.tokenizer)
    return processor


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    """One question on each kind of figure, at the sizes that ReFocus's have."""
    root = tmp_path_factory.mktemp("refocus") / "data"
    write_fixture(root, figures_per_file=3, questions_per_figure=1)
    sets = read_refocus(root, RefocusConfig(RepositoryConfig("owner/name", "0" * 40))).examples.values()
    return {each.figure.kind: each for split in sets for examples in split.values() for each in examples}


@pytest.mark.parametrize(
    ("token", "number"),
    [("<|endoftext|>", 151643), ("<|im_end|>", 151645), ("<|image_pad|>", 151655), ("<tool_call>", 151657)],
)
def test_tokens_have_the_numbers_of_the_published_model(processor: Any, token: str, number: int) -> None:
    assert processor.tokenizer(token)["input_ids"] == [number]
    assert len(processor.tokenizer) == 151665


def test_text_comes_back_to_the_letter(processor: Any) -> None:
    text = "Côte d'Ivoire\u202f1 234,5 % – 漢字 \U0001f4c8\n\ttotal\n"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_blocks_cover_the_prompt(processor: Any, figures: dict[str, Example], kind: FigureKind) -> None:
    example, tokenizer = figures[kind], processor.tokenizer
    messages, tools = prompt_messages(example), tool_schemas(kind)
    prompt = encode_prompt(processor, messages, kind)
    blocks = block_ids(processor, messages, tools, prompt.input_ids)
    assert len(blocks) == len(prompt.input_ids) and set(blocks) == {NO_BLOCK, P, R, I, T}

    def text(block: int) -> str:
        found: str = tokenizer.decode([token for token, b in zip(prompt.input_ids, blocks, strict=True) if b == block])
        return found

    # What is between the parts of a prompt can be one token with the end of a part, never with its first letter.
    assert text(R).rstrip() == example.request.rstrip()
    assert text(P).strip() == example.context.strip()
    assert all(schema["function"]["name"] in text(T) for schema in tools)
    assert set(text(I)) == set("<|image_pad|>")
    assert "<|im_start|>" in text(NO_BLOCK) and example.request not in text(NO_BLOCK)


@pytest.mark.parametrize("size", [(830, 580), (3000, 2000), (120, 90), (400, 1600)])
def test_an_image_has_a_token_for_each_cell_within_the_bounds(
    processor: Any, figures: dict[str, Example], size: tuple[int, int]
) -> None:
    prompt = encode_prompt(processor, prompt_messages(figures["h_bar"], Image.new("RGB", size)), "h_bar")
    tokens = prompt.input_ids.count(151655)
    (_, height, width) = prompt.image_grid_thw[0].tolist()
    assert tokens == height * width // 4 and len(prompt.pixel_values) == height * width
    assert LEAST <= tokens * 28 * 28 <= MOST
    assert width / height == pytest.approx(size[0] / size[1], rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_leaves_room_in_the_attribution(processor: Any, figures: dict[str, Example], kind: FigureKind) -> None:
    """The longest group that the attribution takes is ``attribution.max_tokens``, 16384."""
    prompt = encode_prompt(processor, prompt_messages(figures[kind]), kind)
    assert 600 < len(prompt.input_ids) < 16384 / 2


@pytest.mark.parametrize("name", sorted(TOOLS))
@pytest.mark.parametrize("spaced", [False, True], ids=["ours", "with-newlines"])
def test_a_call_is_read_back(processor: Any, name: str, spaced: bool) -> None:
    call = ToolCall(name, ("Côte d'Ivoire", '5" pipe', "漢字"))
    text = render_call(call)
    if spaced:
        text = text.replace("<tool_call>", "<tool_call>\n").replace("</tool_call>", "\n</tool_call>")
    ids, opening = processor.tokenizer([text + "<|im_end|>", "<|im_start|>assistant\n"])["input_ids"]
    assert (ids[0], ids[-2]) == (151657, 151658)
    function = parse_response(processor.tokenizer, ids, prefix=opening)["tool_calls"][0]["function"]
    assert function == {"name": name, "arguments": call.arguments}
    assert parse_turn(processor.tokenizer.decode(ids, skip_special_tokens=True)).calls == [call]


def test_a_rollout_s_length_is_two_turns_and_the_largest_edited_image(
    processor: Any, figures: dict[str, Example]
) -> None:
    tokens = {
        kind: encode_prompt(processor, prompt_messages(example), kind).input_ids.count(151655)
        for kind, example in figures.items()
    }
    longest = longest_completion(processor, list(figures.values()), 1024)
    assert 0 < longest - 2 * 1024 - max(tokens.values()) < 40, (longest, tokens)
    assert open_image(figures["table"]).width > 100
