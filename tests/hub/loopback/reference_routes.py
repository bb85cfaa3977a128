"""Tags, branches and pull requests."""

from __future__ import annotations

import re
from typing import Any

from tests.hub.loopback.answers import instant
from tests.hub.loopback.messages import Answer, Refusal, Request, answer_json
from tests.hub.loopback.repository import Pull, Repository
from tests.hub.loopback.routes import route
from tests.hub.loopback.service import Service

REFERENCE = re.compile(r"(?!refs/)[^\s~^:?*\[\\\x00-\x1f]+(?<!/)(?<!\.lock)")


@route("POST", "/api/models/{repo}/tag/{revision}")
def create_tag(service: Service, request: Request, repo: str, revision: str) -> Answer:
    repository, _ = service.writable(request, repo)
    _add(repository.tags, request.json()["tag"], repository.resolve(revision).sha)
    service.store.save(repository)
    return answer_json({})


@route("DELETE", "/api/models/{repo}/tag/{name}")
def delete_tag(service: Service, request: Request, repo: str, name: str) -> Answer:
    repository, _ = service.writable(request, repo)
    return _remove(service, repository, repository.tags, name)


@route("POST", "/api/models/{repo}/branch/{name}")
def create_branch(service: Service, request: Request, repo: str, name: str) -> Answer:
    repository, _ = service.writable(request, repo)
    start = request.json().get("startingPoint") or "main"
    _add(repository.branches, name, repository.resolve(start).sha)
    service.store.save(repository)
    return answer_json({})


@route("DELETE", "/api/models/{repo}/branch/{name}")
def delete_branch(service: Service, request: Request, repo: str, name: str) -> Answer:
    repository, _ = service.writable(request, repo)
    if name == "main":
        raise Refusal(403, "Cannot delete the default branch")
    return _remove(service, repository, repository.branches, name)


def _add(names: dict[str, str], name: str, sha: str) -> None:
    if not REFERENCE.fullmatch(name) or ".." in name:
        raise Refusal(400, f"Invalid reference name: {name}")
    if name in names:
        raise Refusal(409, f"Reference already exists: {name}")
    names[name] = sha


def _remove(service: Service, repository: Repository, names: dict[str, str], name: str) -> Answer:
    if names.pop(name, None) is None:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
    service.store.save(repository)
    return answer_json({})


@route("GET", "/api/models/{repo}/discussions/{number}")
def discussion(service: Service, request: Request, repo: str, number: str) -> Answer:
    repository = service.readable(request, repo)
    pull = repository.pull(int(number))
    return answer_json(_details(repository, pull))


@route("POST", "/api/models/{repo}/discussions/{number}/merge")
def merge(service: Service, request: Request, repo: str, number: str) -> Answer:
    repository, _ = service.writable(request, repo)
    pull = repository.pull(int(number))
    behind = {commit.sha for commit in repository.history(f"refs/pr/{pull.number}")}
    if pull.merged or repository.branches[pull.base] not in behind:
        raise Refusal(409, "This pull request cannot be merged")
    repository.branches[pull.base], pull.merged = pull.head, True
    service.store.save(repository)
    return answer_json({})


def _details(repository: Repository, pull: Pull) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "status": "merged" if pull.merged else "open",
        "author": {"name": pull.author},
        "createdAt": instant(repository.commits[pull.head].time),
        "isPullRequest": True,
        "events": [],
        "repo": {"name": repository.id, "type": "model"},
        "changes": {"base": f"refs/heads/{pull.base}"},
        "filesWithConflicts": [],
    }
