"""What was asked and what was answered."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tests.hub.loopback.messages import Server

#: How much of a request's body is kept.
BODY_LIMIT = 1 << 20


@dataclass
class Exchange:
    """A request and its answer.

    Attributes:
        server: ``hub`` or ``files``.
        target: path and query as the client wrote them.
        headers: the request's, by lower-case name, with ``authorization`` as it came.
        body: the request's, its first MiB.
        size: of the whole body.
        status: of the answer; None where none was sent, or not yet.
        answered: bytes of the answer's body that were sent.
        fault: the fault the request met.
    """

    server: Server
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    size: int
    status: int | None = None
    answered: int = 0
    fault: str | None = None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def token(self) -> str | None:
        """The token that came along."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    def __str__(self) -> str:
        fault = f" [{self.fault}]" if self.fault else ""
        return f"{self.server} {self.method} {self.target} -> {self.status}{fault}"


class Log:
    """The exchanges of a Hub, in the order the requests came; a list that may be read while it grows."""

    def __init__(self, listener: Callable[[Exchange], None] | None = None) -> None:
        self._exchanges: list[Exchange] = []
        self._lock = threading.Lock()
        self._listener = listener

    def open(self, exchange: Exchange) -> None:
        with self._lock:
            self._exchanges.append(exchange)

    def close(self, exchange: Exchange) -> None:
        """The exchange is over."""
        if self._listener:
            with self._lock:
                self._listener(exchange)

    def matching(self, pattern: str) -> list[Exchange]:
        """Those whose line, such as ``hub POST /api/repos/create -> 200``, holds the pattern."""
        return [exchange for exchange in self if re.search(pattern, str(exchange))]

    def clear(self) -> None:
        with self._lock:
            self._exchanges.clear()

    def __iter__(self) -> Iterator[Exchange]:
        with self._lock:
            return iter(list(self._exchanges))

    def __len__(self) -> int:
        return len(self._exchanges)

    def __getitem__(self, index: int) -> Exchange:
        return self._exchanges[index]

    def __str__(self) -> str:
        return "\n".join(map(str, self))
