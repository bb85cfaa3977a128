"""Who am I, may I, and repositories as such: create, settings, delete."""

from __future__ import annotations

import re
from typing import Any

from tests.hub.loopback.messages import Answer, Refusal, Request, answer_json
from tests.hub.loopback.routes import route
from tests.hub.loopback.service import Service

REPOSITORY_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


@route("GET", "/api/agent-harnesses")
def agent_harnesses(service: Service, request: Request) -> Answer:
    return answer_json({"standardEnvVars": [], "harnesses": {}})


@route("GET", "/api/whoami-v2")
def whoami(service: Service, request: Request) -> Answer:
    return answer_json(service.accounts.member(request).whoami())


@route("GET", "/api/models/{repo}/auth-check")
def auth_check(service: Service, request: Request, repo: str) -> Answer:
    service.open(request, repo)
    return answer_json({})


@route("GET", "/api/models/{repo}/auth-check/write")
def auth_check_write(service: Service, request: Request, repo: str) -> Answer:
    service.writable(request, repo)
    return answer_json({})


@route("POST", "/api/repos/create")
def create(service: Service, request: Request) -> Answer:
    token, asked = service.accounts.member(request), request.json()
    namespace, name = asked.get("organization") or token.account, str(asked.get("name"))
    repo_id = f"{namespace}/{name}"
    if not token.may_write(repo_id):
        raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
    if asked.get("type", "model") != "model" or not REPOSITORY_NAME.fullmatch(name) or ".." in name or "--" in name:
        raise Refusal(400, f"Invalid repository: {asked}")
    found: dict[str, Any] = {"url": f"{service.hub_url}/{repo_id}", "name": repo_id, "id": repo_id}
    if service.store.find(repo_id):
        raise Refusal(409, "You already created this model repo", **found)
    service.store.create(repo_id, private=bool(asked.get("private")) or asked.get("visibility") == "private")
    return answer_json(found)


@route("PUT", "/api/models/{repo}/settings")
def settings(service: Service, request: Request, repo: str) -> Answer:
    repository, _ = service.writable(request, repo)
    asked = request.json()
    if "private" in asked or "visibility" in asked:
        repository.private = bool(asked.get("private")) or asked.get("visibility") == "private"
    if "gated" in asked:
        repository.gated = asked["gated"] is not False
    service.store.save(repository)
    return answer_json({"private": repository.private, "gated": repository.gated})


@route("DELETE", "/api/repos/delete")
def delete(service: Service, request: Request) -> Answer:
    token, asked = service.accounts.member(request), request.json()
    repository, _ = service.writable(request, f"{asked.get('organization') or token.account}/{asked['name']}")
    service.store.delete(repository.id)
    return answer_json({})
