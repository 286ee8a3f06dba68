"""Keys of servers: read from the environment, and kept out of messages, logs and records."""

from __future__ import annotations

import os
import re

_CREDENTIALS = re.compile(r"(?<=://)[^/\s\"'<>]*@")
"""``user:token@`` of an address."""


_AUTHORIZATION = re.compile(r"\b(Bearer|Basic)(\s+)[^\s\"',]+")
"""The value of an HTTP header that proves who asks."""


_MIN_SECRET = 8
"""Shortest text that is taken for a secret; what local servers accept in place of a key is shorter."""


_HIDDEN = "***"


class KeyFormatError(ValueError):
    """A key that no HTTP header can hold; the message names its variable and not the key."""


def read_key(variable: str) -> str:
    """Return the key in an environment variable without the blanks and line ends around it; empty where it is unset.

    Raises:
        KeyFormatError: for a key with a line end or another character inside that no HTTP header can hold.
    """
    return checked_key(os.environ.get(variable, ""), variable)


def checked_key(key: str, source: str) -> str:
    """Return a key without the blanks and line ends around it.

    Args:
        key: as it was given.
        source: where it was given, for the message.

    Raises:
        KeyFormatError: for a key with a line end or another character inside that no HTTP header can hold.
    """
    key = key.strip()
    if key.isascii() and key.isprintable():
        return key
    raise KeyFormatError(
        f"{source}: found a key with a line end or a non-ASCII character inside; expected printable ASCII alone: set "
        "it again, on one line and without quotes around it"
    )


def redacted(text: str, *secrets: str) -> str:
    """Return a text without secrets, for messages, logs and records; takes time linear in its length.

    Args:
        text: perhaps an exception's, or a server's.
        secrets: keys to hide. Credentials in addresses and authorization headers are hidden in any case.

    Example:
        >>> redacted("http://me:token@host/v1 refuses sk-123456789", "sk-123456789")
        'http://***@host/v1 refuses ***'
    """
    for secret in secrets:
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, _HIDDEN)
    text = _CREDENTIALS.sub(f"{_HIDDEN}@", text)
    return _AUTHORIZATION.sub(rf"\1\2{_HIDDEN}", text)


def one_line(text: str, *secrets: str, length: int = 200) -> str:
    """Return a text without secrets on one line, cut to a length; for what a server or an exception says.

    Args:
        text: of any length.
        secrets: keys to hide, as in :func:`redacted`.
        length: maximum number of characters.
    """
    # Blanks are folded after the secrets are hidden, and the text is cut last, so that no part of a secret is left.
    line = " ".join(redacted(text, *secrets).split())
    return line if len(line) <= length else f"{line[: length - 2]} …"
