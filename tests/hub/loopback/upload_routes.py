"""The way of a file into a repository: preupload, large file storage, commit."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from tests.hub.loopback import cards
from tests.hub.loopback.messages import Answer, Refusal, Request, answer_json
from tests.hub.loopback.repository import File, Pull
from tests.hub.loopback.routes import route
from tests.hub.loopback.service import Service
from tests.hub.loopback.store import Store

LFS = {"Content-Type": "application/vnd.git-lfs+json"}


@route("POST", "/api/validate-yaml")
def validate_yaml(service: Service, request: Request) -> Answer:
    try:
        found = cards.metadata(request.json()["content"])
    except ValueError as problem:
        return answer_json({"errors": [{"message": str(problem)}], "warnings": []}, status=400)
    empty = {"message": "empty or missing yaml metadata in repo card"}
    return answer_json({"errors": [], "warnings": [] if found else [empty]})


@route("POST", "/api/models/{repo}/preupload/{revision}")
def preupload(service: Service, request: Request, repo: str, revision: str) -> Answer:
    repository, _ = service.writable(request, repo, proposing=request.flag("create_pr"))
    held = repository.resolve(revision).files

    def advice(asked: Mapping[str, Any]) -> dict[str, Any]:
        old = held.get(asked["path"])
        oid = old and (old.sha256 if old.large else old.oid)
        mode = service.upload_mode(asked["path"], asked["size"])
        return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    return answer_json({"files": [advice(asked) for asked in request.json()["files"]]})


@route("POST", "/{repo}.git/info/lfs/objects/batch")
def batch(service: Service, request: Request, repo: str) -> Answer:
    service.writable(request, repo, proposing=True)
    asked = request.json()
    parts = service.chunk_size if "multipart" in asked.get("transfers", []) else None
    objects = [_upload_order(service, item["oid"], item["size"], parts) for item in asked["objects"]]
    several = any("chunk_size" in item.get("actions", {}).get("upload", {}).get("header", {}) for item in objects)
    return answer_json({"transfer": "multipart" if several else "basic", "objects": objects}, headers=LFS)


def _upload_order(service: Service, oid: str, size: int, chunk_size: int | None) -> dict[str, Any]:
    order: dict[str, Any] = {"oid": oid, "size": size}
    if service.store.blobs.verify(oid, size):
        return order
    upload: dict[str, Any] = {"href": service.signed(f"/upload/{oid}")}
    if chunk_size is not None and size > chunk_size:
        count = -(-size // chunk_size)
        numbered = {str(number): service.signed(f"/upload/{oid}/{number}") for number in range(1, count + 1)}
        upload = {
            "href": service.signed_on_hub(f"/api/complete_multipart/{oid}"),
            "header": {"chunk_size": str(chunk_size), **numbered},
        }
    return order | {"actions": {"upload": upload, "verify": {"href": f"{service.hub_url}/api/verify_upload"}}}


@route("PUT", "/upload/{oid}", server="files", locked=False)
def put(service: Service, request: Request, oid: str) -> Answer:
    service.check_signature(request)
    return Answer(200, {"ETag": f'"{service.store.blobs.receive(oid, request.body)}"'})


@route("PUT", "/upload/{oid}/{number}", server="files", locked=False)
def put_part(service: Service, request: Request, oid: str, number: str) -> Answer:
    service.check_signature(request)
    return Answer(200, {"ETag": f'"{service.store.blobs.receive(oid, request.body, int(number))}"'})


@route("POST", "/api/complete_multipart/{oid}")
def complete_multipart(service: Service, request: Request, oid: str) -> Answer:
    service.check_signature(request)
    parts = sorted(request.json()["parts"], key=lambda part: int(part["partNumber"]))
    service.store.blobs.join(oid, [part["etag"] for part in parts])
    return answer_json({})


@route("POST", "/api/verify_upload")
def verify_upload(service: Service, request: Request) -> Answer:
    service.accounts.member(request)
    asked = request.json()
    if not service.store.blobs.verify(asked["oid"], asked["size"]):
        raise Refusal(422, "The uploaded bytes are not those that were announced")
    return answer_json({}, headers=LFS)


@route("POST", "/api/models/{repo}/commit/{revision}")
def commit(service: Service, request: Request, repo: str, revision: str) -> Answer:
    proposing = request.flag("create_pr")
    repository, token = service.writable(request, repo, proposing=proposing)
    base = repository.resolve(revision)
    if revision not in (repository.branches if proposing else repository.heads()):
        raise Refusal(400, f"Not a branch: {revision}")
    lines = _lines(request.content())
    if not lines or lines[0]["key"] != "header" or not lines[0]["value"].get("summary"):
        raise Refusal(400, "A commit starts with its header and summary")
    header = lines[0]["value"]
    if (parent := header.get("parentCommit")) and not base.sha.startswith(parent):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(base.files)
    for line in lines[1:]:
        _apply(service.store, files, line["key"], line["value"])
    title, description = header["summary"], header.get("description", "")
    result = {"success": True, "hookOutput": ""}
    name = revision
    if proposing:
        number = len(repository.pulls) + 1
        repository.pulls.append(Pull(number, title, description, token.account, revision, base.sha))
        name = f"refs/pr/{number}"
        result["pullRequestUrl"] = f"{service.hub_url}/{repo}/discussions/{number}"
    made = service.store.commit(
        repository, name, files, parent=base.sha, title=title, description=description, author=token.account
    )
    return answer_json({**result, "commitOid": made.sha, "commitUrl": f"{service.hub_url}/{repo}/commit/{made.sha}"})


def _lines(body: bytes) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in body.splitlines() if line.strip()]
    except ValueError as problem:
        raise Refusal(400, f"Invalid ndjson: {problem}") from problem


def _apply(store: Store, files: dict[str, File], key: str, value: Mapping[str, Any]) -> None:
    """One line of a commit onto the files."""
    path = _safe(value["path"])
    if key == "file":
        content = _decoded(value)
        if path == "README.md":
            _check_card(content)
        files[path] = store.small(content)
    elif key == "lfsFile":
        files[path] = store.large(value["oid"], value["size"])
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        for inner in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
            del files[inner]
    else:
        raise Refusal(400, f"Unknown operation: {key}")


def _decoded(value: Mapping[str, Any]) -> bytes:
    if value.get("encoding") != "base64":
        return str(value["content"]).encode()
    try:
        return base64.b64decode(value["content"], validate=True)
    except binascii.Error as problem:
        raise Refusal(400, f"Invalid base64: {problem}") from problem


def _safe(path: str) -> str:
    if any(part in ("", ".", "..", ".git") for part in path.rstrip("/").split("/")):
        raise Refusal(400, f"Invalid path: {path}")
    return path


def _check_card(content: bytes) -> None:
    try:
        cards.metadata(content.decode())
    except ValueError as problem:
        raise Refusal(400, f"Invalid metadata in README.md: {problem}") from problem
