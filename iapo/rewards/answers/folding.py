"""The text of an answer without its wrapping: what models and data sets put around the same answer. No torch.

:func:`unwrap` takes off what models add (LaTeX, quotes, brackets, tags, a repeated label); :func:`fold` maps different
spellings of one text to one (case, accents, quotes, dashes, white space), as TableVQA-Bench's evaluator does
(arXiv 2404.19205); :func:`without_details` drops what that evaluator ignores at the end of a table's cell. The
matcher gives them at most :data:`MAX_LENGTH` characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MAX_LENGTH = 1_000
"""Characters, more than any gold answer has; a longer text is no answer. Bounds the work on a hostile one."""

_MAX_LAYERS = 8
"""Wrappings inside one another that are taken off, e.g. 3 in ``**$\\boxed{7}$**``."""

_ENDS = " \t\r\n*_`\"'´‘’‚“”„«»"
"""Stripped from both ends: white space, quotes and Markdown emphasis."""

_QUOTES = str.maketrans({**dict.fromkeys("‘’‚´`", "'"), **dict.fromkeys("“”„«»", '"')})
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))

_LABEL = re.compile(r"(?:the\s+)?(?:final\s+)?answer\s*[:：=]\s*", re.IGNORECASE)
"""``ANSWER:`` repeated at the head of an answer."""

_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\(?:boxed|fbox|mbox|emph|text[a-z]*|math[a-z]*|operatorname)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:approx|sim)\b"), "≈"),
    (re.compile(r"\\times\b"), "×"),
    (re.compile(r"\^\{?\\circ\}?|\\degree\b"), "°"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([%$&#_])"), r"\1"),
    (re.compile(r"\\[,;:! ]|\\q?quad\b"), " "),
)
"""LaTeX that stands for plain text → that text."""

_MATH = (re.compile(r"\$([^$]+)\$", re.DOTALL), re.compile(r"\\\((.+)\\\)", re.DOTALL))
_WRAPPERS = (
    re.compile(r"\$\$(.+)\$\$", re.DOTALL),
    *_MATH,
    re.compile(r"\\\[(.+)\\\]", re.DOTALL),
    re.compile(r"<(?P<tag>[a-z]\w{0,20})>([^<]*)</(?P=tag)>", re.IGNORECASE),
    re.compile(r"<([^<>]+)>"),
    re.compile(r"\(([^()]+)\)"),
    re.compile(r"\[([^\[\]]+)\]"),
    re.compile(r"\{([^{}]+)\}"),
)
"""Pairs around a whole answer; the last group is what they hold."""

_LIST = re.compile(r"\[([^\[\]]*)\]|\{([^{}]*)\}")
_LIST_ITEM = re.compile(r"""\s*(?:"([^"]*)"|'((?:[^']|'(?!\s*(?:,|$)))*)'|([^,]*))\s*(?:,|$)""")
"""One item of a bracketed list: in double quotes, in single quotes (which may hold an apostrophe), or bare."""

_CITATIONS = re.compile(r"(?<=\S)(?:\s*\[[^\[\]]*\]|[•♦†‡*#+])$")
_PARENTHESIS = re.compile(r"(?<=\S)\s+\(([^()]*)\)$")


def unwrap(text: str) -> str:
    """Return an answer without LaTeX, quotes, emphasis, tags, brackets and a repeated label around the whole of it."""
    text = _plain_latex(text).strip(_ENDS)
    for _ in range(_MAX_LAYERS):
        inner = _without_outer_layer(text)
        if inner == text:
            break
        text = inner
    return text


def list_items(text: str) -> list[str] | None:
    """Return the items of a list in brackets, such as ``['Oslo', 'Rome']``; None for any other text."""
    text = _plain_latex(text).strip(_ENDS)
    while (inner := _inside(text, _MATH)) != text:
        text = inner
    whole = _LIST.fullmatch(text.strip())
    if whole is None:
        return None
    inner = whole[1] if whole[1] is not None else whole[2]
    items = []
    end = 0
    while end < len(inner):
        item = _LIST_ITEM.match(inner, end)
        if item is None:
            return None
        items.append(next(group for group in item.groups() if group is not None).strip())
        end = item.end()
    return items


def fold(text: str) -> str:
    """Return one spelling for texts that differ in case, accents, quotes, dashes, white space or a final stop."""
    text = unicodedata.normalize("NFKD", text.translate(_QUOTES).translate(_DASHES))
    text = "".join(character for character in text if unicodedata.category(character) not in ("Mn", "Cf"))
    folded = " ".join(text.casefold().split()).strip(_ENDS)
    return folded.rstrip(".,;:!?").strip(_ENDS) or folded


def without_details(folded: str) -> tuple[str, str]:
    """Split what TableVQA-Bench ignores off the end of a table's cell: ``china (chn)[1]`` → ``china``, ``chn``.

    Args:
        folded: a text from :func:`fold`.

    Returns:
        The text without final citations and parentheses, and what the parentheses held, ``""`` without any.
    """
    details = ""
    for _ in range(_MAX_LAYERS):
        shorter = _CITATIONS.sub("", folded).strip()
        if parenthesis := _PARENTHESIS.search(shorter):
            details = f"{parenthesis[1].strip()} {details}".strip()
            shorter = shorter[: parenthesis.start()].strip()
        if shorter == folded:
            break
        folded = shorter
    return folded.strip(_ENDS), details


def _plain_latex(text: str) -> str:
    if "\\" not in text and "{,}" not in text:
        return text
    for _ in range(_MAX_LAYERS):
        plain = text
        for pattern, replacement in _LATEX:
            plain = pattern.sub(replacement, plain)
        if plain == text:
            break
        text = plain
    return text


def _without_outer_layer(text: str) -> str:
    if label := _LABEL.match(text):
        text = text[label.end() :]
    return _inside(text, _WRAPPERS).strip(_ENDS)


def _inside(text: str, wrappers: Sequence[re.Pattern[str]]) -> str:
    """What the first wrapper around the whole of a text holds; the text where there is none."""
    found = (wrapper.fullmatch(text) for wrapper in wrappers)
    return next((whole[whole.re.groups] for whole in found if whole), text)
