"""One request as it came, one answer as it will go."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK = 1 << 16
Server = Literal["hub", "files"]


@dataclass
class Request:
    """A request, read whole.

    Attributes:
        server: which of the two servers it came to.
        target: path and query as the client wrote them.
        headers: by lower-case name.
        body: the bytes, at their start.
        size: how many bytes those are.
    """

    server: Server
    method: str
    target: str
    headers: Mapping[str, str]
    body: BinaryIO
    size: int

    @property
    def path(self) -> str:
        """The path as the client wrote it, still quoted."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)

    def flag(self, name: str) -> bool:
        """Whether the query switches ``name`` on."""
        return self.query.get(name, ["false"])[-1].lower() in ("1", "true")

    def content(self) -> bytes:
        self.body.seek(0)
        return self.body.read()

    def form(self) -> dict[str, list[str]]:
        """The body as the fields of a form."""
        return parse_qs(self.content().decode())

    def json(self) -> Any:
        """The body as JSON, an empty one as ``{}``.

        Raises:
            Refusal: 400, the body is no JSON.
        """
        try:
            return json.loads(self.content() or b"{}")
        except ValueError as problem:
            raise Refusal(400, f"Invalid JSON: {problem}") from problem


@dataclass(frozen=True)
class Slice:
    """Bytes ``start`` to ``start + length`` of a file, read when they are sent."""

    file: Path
    start: int
    length: int

    def __len__(self) -> int:
        return self.length

    def chunks(self) -> Iterator[bytes]:
        left = self.length
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            while left and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Answer:
    """An answer; ``Content-Length`` is added when it is sent, unless a header claims another."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Slice = b""

    def chunks(self) -> Iterator[bytes]:
        return iter([self.body]) if isinstance(self.body, bytes) else self.body.chunks()


class Refusal(Exception):
    """An answer that is an error.

    Args:
        status: the HTTP status.
        message: goes into ``X-Error-Message`` and the body.
        code: goes into ``X-Error-Code``: RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo.
        headers: further headers.
        more: further fields of the body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        self.status, self.message, self.code = status, message, code
        self.headers, self.more = headers or {}, more
        super().__init__(f"{status} {message}")

    def answer(self) -> Answer:
        text = self.message.encode("ascii", "replace").decode().replace("\n", " ").replace("\r", " ")
        code = {"X-Error-Code": self.code} if self.code else {}
        headers = {"X-Error-Message": text, **code, **self.headers}
        return answer_json({"error": self.message, **self.more}, status=self.status, headers=headers)


def answer_json(content: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status, {**kind, **(headers or {})}, json.dumps(content).encode())


def unquoted(groups: Mapping[str, str | None]) -> dict[str, str]:
    """The named parts of a path, unquoted; absent ones as empty text."""
    return {name: unquote(text or "") for name, text in groups.items()}
