"""The way of a file out of a repository: resolve on the Hub, large files from the file server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from tests.hub.loopback.messages import Answer, Refusal, Request, Slice
from tests.hub.loopback.routes import route
from tests.hub.loopback.service import Service

RANGE = re.compile(r"bytes=(?:(\d+)-(\d*)|-(\d+))")


@route("GET", "/{repo}/resolve/{revision}/{path*}", locked=False)
def resolve(service: Service, request: Request, repo: str, revision: str, path: str) -> Answer:
    return _resolved(service, request, repo, revision, path, detour=service.detour)


@route("GET", "/api/resolve-cache/models/{repo}/{revision}/{path*}", locked=False)
def resolve_cache(service: Service, request: Request, repo: str, revision: str, path: str) -> Answer:
    return _resolved(service, request, repo, revision, path, detour=False)


def _resolved(service: Service, request: Request, repo: str, revision: str, path: str, *, detour: bool) -> Answer:
    with service.store.lock:
        commit = service.open(request, repo).resolve(revision)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    file = commit.files.get(path)
    if file is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", headers)
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])}"
    if not file.large and detour:
        linked = {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.size)}
        return Answer(
            307, headers | linked | {"Location": f"/api/resolve-cache/models/{repo}/{commit.sha}/{quote(path)}"}
        )
    if not file.large:
        return _content(service, request, file.sha256, headers | {"ETag": f'"{file.oid}"'})
    linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return Answer(302, headers | linked | {"Location": service.signed(f"/blob/{file.sha256}")})


@route("GET", "/blob/{sha256}", server="files", locked=False)
def blob(service: Service, request: Request, sha256: str) -> Answer:
    service.check_signature(request)
    return _content(service, request, sha256, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})


def _content(service: Service, request: Request, sha256: str, headers: Mapping[str, str]) -> Answer:
    """The bytes, or the part of them that ``Range`` asks for; what is not one range of bytes is ignored."""
    file = service.store.blobs.path(sha256)
    if not file.is_file():
        raise Refusal(404, "NoSuchKey")
    size = file.stat().st_size
    headers = {"Content-Type": "application/octet-stream", **headers}
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None:
        return Answer(200, headers, Slice(file, 0, size))
    first, last, suffix = asked.groups()
    start = size - min(int(suffix), size) if first is None else int(first)
    end = min(int(last) + 1, size) if last else size
    if start >= end:
        raise Refusal(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    span = {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
    return Answer(206, {**headers, **span}, Slice(file, start, end - start))
