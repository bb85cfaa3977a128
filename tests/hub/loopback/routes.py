"""Which function answers which request: one table, filled by the modules of the routes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.hub.loopback.messages import Answer, Refusal, Request, Server, unquoted
from tests.hub.loopback.service import Service

Handler = Callable[..., Answer]


@dataclass(frozen=True)
class Route:
    """A method and a path. In the path ``{repo}`` stands for two segments, ``{name*}`` for any, others for one."""

    server: Server
    method: str
    pattern: re.Pattern[str]
    handler: Handler
    locked: bool


ROUTES: list[Route] = []
_SHAPES = {"repo": "[^/]+/[^/]+", "number": "[1-9][0-9]{0,8}"}


def route(method: str, path: str, *, server: Server = "hub", locked: bool = True) -> Callable[[Handler], Handler]:
    """Register a handler; it is called with the service, the request and the path's parts, unquoted, by name.

    Args:
        locked: whether nothing else may change meanwhile; not for those that move the bytes of files.
    """

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(server, method, _compiled(path), handler, locked))
        return handler

    return register


def dispatch(service: Service, request: Request) -> Answer:
    """The answer of the first route that fits; a refusal is an answer too."""
    method = "GET" if request.method == "HEAD" else request.method
    try:
        for candidate in ROUTES:
            found = candidate.pattern.fullmatch(request.path)
            if found and (candidate.server, candidate.method) == (request.server, method):
                return _answer(candidate, service, request, unquoted(found.groupdict()))
        raise Refusal(404, f"No route {request.method} {request.path}")
    except Refusal as refusal:
        return refusal.answer()


def _answer(found: Route, service: Service, request: Request, parts: dict[str, str]) -> Answer:
    if not found.locked:
        return found.handler(service, request, **parts)
    with service.store.lock:
        return found.handler(service, request, **parts)


def _compiled(path: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\*?\})", path)
    return re.compile("".join(_group(part[1:-1]) if part.startswith("{") else re.escape(part) for part in parts))


def _group(name: str) -> str:
    pattern = _SHAPES.get(name, ".*" if name.endswith("*") else "[^/]+")
    return rf"(?P<{name.rstrip('*')}>{pattern})"
