"""Download of a prompt that released weights were trained with, verified by its digest. No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2

from iapo.artifacts.files import atomic_write
from iapo.config.sources import PromptConfig
from iapo.jobs.bounded_http import BoundedClient, BoundError, Deadline, split_credentials

_SECONDS = 60.0
"""Longest time that the download may take."""


class PromptError(RuntimeError):
    """A prompt that is not here as it should be; the message says what was found, expected and to be done."""


def fetch_prompt(source: PromptConfig, output: Path) -> None:
    """Have a prompt's text in a file, with the content that its digest names.

    Args:
        source: where it is and what it must be.
        output: file to write, atomically.

    Raises:
        PromptError: if it cannot be had or is another text.
    """
    remote = source.address.startswith(("http://", "https://"))
    content = _downloaded(source.address) if remote else _read(Path(source.address).expanduser())
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise PromptError(
            f"released: found a prompt of {len(content)} bytes with the sha256 {found}, expected {source.sha256}; "
            "correct its address, or its digest if you mean another text"
        )
    with atomic_write(output) as tmp:
        tmp.write_bytes(content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PromptError(
            f"released: found no prompt at {path} ({error.strerror}); put a copy there, or correct its address"
        ) from None


def _downloaded(address: str) -> bytes:
    try:
        bare, credentials = split_credentials(address)
        with Deadline(_SECONDS).applied(), BoundedClient(credentials) as client:
            reply = client.get(bare)
    except (BoundError, httpx2.RequestError, ValueError) as error:
        raise PromptError(
            f"released: the prompt cannot be downloaded ({error}); check the network, or set its address to the path "
            "of a copy"
        ) from None
    if reply.status_code != httpx2.codes.OK:
        raise PromptError(
            f"released: found status {reply.status_code} for {bare}, expected the prompt; correct its address, or set "
            "it to the path of a copy"
        )
    return reply.content
