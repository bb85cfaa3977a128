"""How large an answer of the Hub may be, and how long it may take: both are the server's to choose, and memory is ours.

Requests that huggingface_hub makes within `bounded` are asked unpacked, and their bodies are counted as they come. The
session is shared with whatever else in the process uses huggingface_hub, whose requests are left as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

#: Bytes a second below which a transfer is none.
SLOWEST = 4096
#: Seconds that any answer may take.
PATIENCE = 60.0


class Excess(Exception):
    """An answer beyond its limit; says which, and whether another attempt may do better."""

    def __init__(self, problem: str, *, again: bool = False) -> None:
        super().__init__(problem)
        self.again = again


@dataclass(frozen=True, slots=True)
class Limit:
    """What one answer may take.

    Attributes:
        size: bytes; None where whoever reads counts them himself, as a file's against its listing.
        seconds: from its first byte to its last.
    """

    size: int | None
    seconds: float = PATIENCE


#: What the Hub says of a repository: a listing of fifty thousand files has 16 MB.
ANSWER = Limit(16 << 20)

_limit: ContextVar[Limit | None] = ContextVar("limit", default=None)


def limit_for(size: int) -> Limit:
    """The limit of a file's transfer."""
    return Limit(None, PATIENCE + size / SLOWEST)


@contextmanager
def bounded(limit: Limit | None) -> Iterator[None]:
    """Answers to this thread's requests are held to ``limit``; None: they are not.

    Raises:
        Excess: from within the request.
    """
    if limit is not None:
        _watch_session()
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def _watch_session() -> None:
    from huggingface_hub.utils import get_session

    hooks: dict[str, list[Any]] = get_session().event_hooks
    for name, hook in (("request", _ask_unpacked), ("response", _hold_to_limit)):
        if hook not in hooks[name]:
            hooks[name].append(hook)


def _ask_unpacked(request: httpx.Request) -> None:
    if _limit.get() is not None:
        request.headers["Accept-Encoding"] = "identity"


def _hold_to_limit(response: httpx.Response) -> None:
    limit = _limit.get()
    if limit is None:
        return
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    if limit.size is not None and packed not in ("", "identity"):
        raise Excess("the Hub's answer is packed, which was not asked for")
    response.stream = _counted_stream()(response.stream, limit)


@cache
def _counted_stream() -> type[Any]:
    """The class of streams that count; made here, since the HTTP library is imported where it is needed only."""
    from huggingface_hub.utils import httpx

    class Counted(httpx.SyncByteStream):
        def __init__(self, stream: Any, limit: Limit) -> None:
            self.stream, self.limit = stream, limit

        def __iter__(self) -> Iterator[bytes]:
            end, came = time.monotonic() + self.limit.seconds, 0
            for chunk in self.stream:
                came += len(chunk)
                if self.limit.size is not None and came > self.limit.size:
                    raise Excess(f"the Hub's answer has more than {self.limit.size} bytes")
                if time.monotonic() > end:
                    raise Excess("the Hub's answer comes too slowly", again=self.limit.size is None)
                yield chunk

        def close(self) -> None:
            self.stream.close()

    return Counted
