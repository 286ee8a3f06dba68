"""HTTP client whose replies are bounded in time and size.

A timeout of httpx bounds the wait for the next bytes, so a server that drips a byte a second or streams without end is
never given up. Here every request belongs to a :class:`Deadline`, and a reply is read, and decompressed, piece by piece
up to a limit. OpenAI's client takes the client as its ``http_client`` and does the retries; what this client adds is
when they no longer help.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Self

import httpx2

MAX_REPLY_BYTES = 2**19
"""Maximum size of a reply once decompressed, some 100,000 tokens; parsed JSON may take fifty times as much memory."""


MAX_TOLD_SECONDS = 120.0
"""Longest wait that a server may ask for by ``Retry-After``, over all attempts; OpenAI's client has the same limit."""


_CONNECT_SECONDS = 5.0


_FIRST_PAUSE, _MAX_PAUSE = 0.5, 8.0
"""Pause of OpenAI's client before its first retry, which doubles with each, and the longest; seconds."""


class BoundError(RuntimeError):
    """A request that is given up for good; OpenAI's client does not repeat it."""


class DeadlineError(BoundError):
    """A reply that was not complete in time."""


class ReplySizeError(BoundError):
    """A reply that is too large."""


class LostConnectionError(BoundError):
    """A connection that failed when no time was left to try again."""


class Deadline:
    """Time left for one question, over all the attempts that are made at it."""

    def __init__(self, seconds: float) -> None:
        """Start the clock.

        Args:
            seconds: for the requests. The pauses between them come on top: the client's own, which take at most as
                long again, and those that the server asks for, of at most ``MAX_TOLD_SECONDS``.
        """
        self.seconds = seconds
        self.attempts = 0
        """Number of requests sent."""
        self._end = time.monotonic() + seconds
        self._told_left, self._own_left = MAX_TOLD_SECONDS, seconds

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def allows_retry(self, told: float | None = None) -> bool:
        """Whether there is time for the pause before another attempt, which is then not counted.

        Args:
            told: pause that the server asks for, seconds; None for the client's own.
        """
        pause = min(_FIRST_PAUSE * 2.0 ** (self.attempts - 1), _MAX_PAUSE) if told is None else told
        if pause > (self._own_left if told is None else self._told_left):
            return False
        if told is None:
            self._own_left -= pause
        else:
            self._told_left -= pause
        self._end += pause
        return True

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Apply to the requests that this thread sends by a :class:`BoundedClient`."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


_CURRENT: ContextVar[Deadline] = ContextVar("deadline")


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """The trusted certificates, which take long to read."""
    return httpx2.create_ssl_context()


class BoundedClient(httpx2.Client):
    """HTTP client that reads a reply whole, up to a :class:`Deadline` and a size, and follows no redirect."""

    def __init__(self, auth: httpx2.BasicAuth | None = None) -> None:
        """
        Args:
            auth: from :func:`split_credentials`.
        """
        # Each request opens its connection, since only then does the watchdog get to know the socket.
        limits = httpx2.Limits(max_keepalive_connections=0)
        super().__init__(auth=auth, follow_redirects=False, limits=limits, timeout=None, verify=_ssl_context())

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request within the deadline that applies; the response holds its decompressed content.

        Raises:
            DeadlineError: for a reply that is not complete in time, however steadily it comes.
            ReplySizeError: for a reply of more than ``MAX_REPLY_BYTES``.
            LostConnectionError: for a failed connection where no time is left for a retry.
            httpx2.TransportError: for a failed connection otherwise.
        """
        deadline = _CURRENT.get()
        deadline.attempts += 1
        left = deadline.left
        late = DeadlineError(f"found no complete reply within {deadline.seconds:g} s")
        if not left:
            raise late
        request.extensions["timeout"] = httpx2.Timeout(left, connect=min(left, _CONNECT_SECONDS)).as_dict()
        try:
            with _Watchdog(left) as watchdog:
                request.extensions["trace"] = watchdog.trace
                with contextlib.closing(super().send(request, stream=True, **options)) as response:
                    content = _read(response)
        except httpx2.RequestError as error:
            if watchdog.fired or not deadline.left:
                raise late from error
            if not deadline.allows_retry():
                raise LostConnectionError(f"{type(error).__name__}: {error}") from error
            raise
        if watchdog.fired:
            # A reply of no stated length seems to end where its socket was shut down.
            raise late
        headers = httpx2.Headers(response.headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            headers.pop(name, None)
        if response.status_code >= 400 and not _may_pass(headers, content, deadline):
            headers["x-should-retry"] = "false"
        return httpx2.Response(response.status_code, headers=headers, content=content, request=request)


def split_credentials(address: str) -> tuple[str, httpx2.BasicAuth | None]:
    """Return an address without ``user:token@``, which httpx would log with it, and the credentials.

    Raises:
        ValueError: for what is no address; the message does not hold it.
    """
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        raise ValueError("it is no address; expected one such as http://localhost:8000/v1") from None
    if not url.userinfo:
        return address, None
    return str(url.copy_with(username=None, password=None)), httpx2.BasicAuth(url.username, url.password)


def _read(response: httpx2.Response) -> bytes:
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > MAX_REPLY_BYTES:
            raise ReplySizeError(f"found a reply of more than {MAX_REPLY_BYTES:,} bytes")
    return bytes(content)


def _may_pass(headers: httpx2.Headers, content: bytes, deadline: Deadline) -> bool:
    """Whether another attempt may help: not without money on the account, nor without time left."""
    return b"insufficient_quota" not in content and deadline.allows_retry(_told_seconds(headers))


def _told_seconds(headers: httpx2.Headers) -> float | None:
    """The wait that a server asks for; None for none, or one that nobody can read."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            return seconds if seconds > 0 else None
    with contextlib.suppress(KeyError, TypeError, ValueError, OverflowError):
        seconds = email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
        return seconds if seconds > 0 else None
    return None


class _Watchdog:
    """Shuts a request's socket down when its time is over, which ends whatever waits for it."""

    def __init__(self, seconds: float) -> None:
        self.fired = False
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Take note of the socket; httpx calls this for every part of a request."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.fired:
                self._fire()

    def _fire(self) -> None:
        self.fired = True
        if self._socket is not None:
            # Not an SSL socket's own method, which would take the connection from under a thread that reads it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
