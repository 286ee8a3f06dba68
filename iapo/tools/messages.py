"""Chat messages made of a model's turns, so that every loop carries out what :mod:`iapo.tools.parsing` reads.

TRL's loop parses each turn by ``tokenizer.parse_response``, which on its own reads some turns differently (it takes the
last of two equal keys, ends the run on deeply nested JSON, and needs quadratic time), so :func:`read_turns` puts this
reader in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from iapo.tools.parsing import CallError, RequestedCall, call_spans, checked_call, requested_calls, shortened
from iapo.tools.registry import TOOLS


def assistant_message(text: str, offered: Collection[str]) -> dict[str, Any]:
    """Return an assistant's turn as a chat message with the tool calls to carry out. Never raises.

    Args:
        text: the turn as the model wrote it.
        offered: names of the tools that the prompt offers.

    Returns:
        ``role``, ``content`` (the text outside the calls) and, if there is anything to carry out, ``tool_calls``. If a
        call is malformed or its tool is not offered, none of the turn's calls is carried out: the only one in the
        message is then that faulty one, whose error the model will read. A call without sound JSON or a name cannot be
        put into a message: the whole turn is then text, as in TRL.
    """
    try:
        requests = requested_calls(text)
    except CallError:
        requests = []
    content = _outside_calls(text) if requests else text
    message: dict[str, Any] = {"role": "assistant", "content": content}
    faulty = next((request for request in requests if not _is_sound(request, offered)), None)
    if requests:
        handed_on = requests if faulty is None else [faulty]
        message["tool_calls"] = [_function(request) for request in handed_on]
    return message


def read_turns(tokenizer: Any) -> None:
    """Make TRL read the turns of a tokenizer with :func:`assistant_message`.

    Args:
        tokenizer: its method ``parse_response`` is replaced; TRL calls it with a turn's token ids and the tools that
            the prompt offers.
    """
    tokenizer.parse_response = partial(_parse_response, tokenizer)


def _parse_response(
    tokenizer: Any,
    ids: Sequence[int],
    *,
    prefix: object = None,
    tools: Sequence[Mapping[str, Any] | Callable[..., object]] | None = None,
) -> dict[str, Any]:
    text = tokenizer.decode(ids, skip_special_tokens=True)
    return assistant_message(text, TOOLS if tools is None else [_name(tool) for tool in tools])


def _name(tool: Mapping[str, Any] | Callable[..., object]) -> str:
    return str(tool["function"]["name"] if isinstance(tool, Mapping) else getattr(tool, "__name__", ""))


def _outside_calls(text: str) -> str:
    starts, ends = zip(*call_spans(text), strict=True)
    return "".join(text[end:start] for end, start in zip((0, *ends), (*starts, len(text)), strict=True)).strip()


def _is_sound(request: RequestedCall, offered: Collection[str]) -> bool:
    try:
        return checked_call(*request).name in offered
    except CallError:
        return False


def _function(request: RequestedCall) -> dict[str, Any]:
    # The tool's answer repeats an unknown name, so it must be as short and harmless as a quotation.
    return {"type": "function", "function": {"name": shortened(request.name), "arguments": request.arguments}}
