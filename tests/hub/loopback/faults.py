"""What can go wrong between client and Hub, to be switched on for chosen requests."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.hub.loopback.messages import Answer, Refusal, Request

#: `Fault.send` for an answer of which not one byte is sent.
NOTHING = -1


def _same(answer: Answer) -> Answer:
    return answer


def _flipped(answer: Answer) -> Answer:
    content = bytearray(b"".join(answer.chunks()))
    if content:
        content[len(content) // 2] ^= 1
    return replace(answer, body=bytes(content))


@dataclass(frozen=True)
class Fault:
    """One way to treat a request.

    Attributes:
        name: for the log.
        delay: seconds to wait before anything else.
        instead: an answer given without doing what was asked; None: the request is carried out.
        applied: whether the request is carried out.
        change: what is done to the answer on its way.
        send: how many bytes of the body are sent before the connection is closed; `NOTHING`: not even the head;
            None: all, and the connection stays open. Of an answer without a body nothing is sent.
    """

    name: str
    delay: float = 0.0
    instead: Answer | None = None
    applied: bool = True
    change: Callable[[Answer], Answer] = _same
    send: int | None = None


def status(code: int, *, error: str | None = None, headers: Mapping[str, str] | None = None) -> Fault:
    """Not applied, answered with this status, ``X-Error-Code`` ``error`` and headers such as ``Retry-After``."""
    return Fault(str(code), instead=Refusal(code, "injected", error, headers).answer())


def rate_limit(seconds: int, *, header: str = "Retry-After") -> Fault:
    """429, with ``Retry-After`` or the Hub's own ``RateLimit`` header saying when to come back."""
    value = {"Retry-After": str(seconds), "RateLimit": f'"api";r=0;t={seconds}'}[header]
    policy = {"RateLimit-Policy": '"fixed window";"api";q=500;w=300'} if header == "RateLimit" else {}
    return replace(status(429, headers={header: value, **policy}), name=f"429 {header}")


def delay(seconds: float) -> Fault:
    """Applied and answered, late."""
    return Fault(f"delay {seconds} s", delay=seconds)


def cut(after: int) -> Fault:
    """Applied; the connection closes after so many bytes of the body, though more were announced."""
    return Fault(f"cut after {after}", send=after)


def corrupt() -> Fault:
    """Applied; the answer's body has its size, but one bit in its middle is another. HEAD has none to change."""
    return Fault("corrupt", change=_flipped)


def lost_answer() -> Fault:
    """Applied, and the connection closed without a byte of an answer."""
    return Fault("lost answer", send=NOTHING)


def dropped() -> Fault:
    """Not applied, and the connection closed without a byte of an answer."""
    return Fault("dropped", applied=False, send=NOTHING)


def redirect(url: str, code: int = 302) -> Fault:
    """Not applied, sent elsewhere."""
    return Fault(f"{code} to {url}", instead=Answer(code, {"Location": url}))


def headers(**changed: str | None) -> Fault:
    """Applied; these headers are replaced or, where None, left out. ``X_Repo_Commit`` stands for ``X-Repo-Commit``."""
    names = {name.replace("_", "-").lower(): (name.replace("_", "-"), value) for name, value in changed.items()}

    def change(answer: Answer) -> Answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in names}
        return replace(answer, headers=kept | {name: value for name, value in names.values() if value is not None})

    return Fault(f"headers {changed}", change=change)


def body(content: bytes) -> Fault:
    """Applied; answered with this body in place of its own."""
    return Fault(f"body of {len(content)} bytes", change=lambda answer: replace(answer, body=content))


def edited(edit: Callable[[Any], Any]) -> Fault:
    """Applied; the JSON of the answer goes through a function, such as ``lambda info: info | {"sha": "../../x"}``."""

    def change(answer: Answer) -> Answer:
        return replace(answer, body=json.dumps(edit(json.loads(b"".join(answer.chunks())))).encode())

    return Fault("edited", change=change)


#: One of every kind that a push or pull must survive, by name.
KINDS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        status(500),
        status(503),
        rate_limit(0),
        rate_limit(0, header="RateLimit"),
        delay(0.05),
        cut(0),
        cut(20),
        corrupt(),
        lost_answer(),
        dropped(),
    )
}


@dataclass
class Planned:
    """A fault that waits for its requests.

    Attributes:
        on: searched in ``METHOD target``.
        skip: matching requests still to be let through.
        times: requests still to be treated; None: all.
        met: how many were.
    """

    fault: Fault
    on: re.Pattern[str]
    skip: int
    times: int | None
    met: int = 0


class Faults:
    """The faults that are switched on; the first that fits a request is met by it."""

    def __init__(self) -> None:
        self._planned: list[Planned] = []
        self._lock = threading.Lock()

    def plan(self, fault: Fault, on: str = "", *, skip: int = 0, times: int | None = 1) -> Planned:
        planned = Planned(fault, re.compile(on), skip, times)
        with self._lock:
            self._planned.append(planned)
        return planned

    def clear(self) -> None:
        with self._lock:
            self._planned.clear()

    def meet(self, request: Request) -> Fault | None:
        """The fault this request meets; every plan counts the requests that it matches."""
        line = f"{request.method} {request.target}"
        with self._lock:
            due = [planned for planned in self._planned if planned.on.search(line) and _due(planned)]
            if not due:
                return None
            due[0].met += 1
            if due[0].times is not None:
                due[0].times -= 1
            return due[0].fault


def _due(planned: Planned) -> bool:
    if planned.skip:
        planned.skip -= 1
        return False
    return planned.times is None or planned.times > 0
