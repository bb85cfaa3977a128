"""What is in a repository: info, trees page by page, single paths, refs, history."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from tests.hub.loopback import cards, git
from tests.hub.loopback.answers import entry, instant, sibling
from tests.hub.loopback.messages import Answer, Refusal, Request, answer_json
from tests.hub.loopback.repository import Commit
from tests.hub.loopback.routes import route
from tests.hub.loopback.service import Service


@route("GET", "/api/models/{repo}")
def info(service: Service, request: Request, repo: str) -> Answer:
    return revision_info(service, request, repo, "main")


@route("GET", "/api/models/{repo}/revision/{revision}")
def revision_info(service: Service, request: Request, repo: str, revision: str) -> Answer:
    repository = service.readable(request, repo)
    commit = repository.resolve(revision)
    card = _card(service, commit)
    blobs = request.flag("blobs")
    found: dict[str, Any] = {
        "_id": git.object_id("blob", repo.encode())[:24],
        "id": repo,
        "modelId": repo,
        "author": repository.owner,
        "sha": commit.sha,
        "lastModified": instant(commit.time),
        "createdAt": instant(repository.created),
        "private": repository.private,
        "gated": "auto" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [str(tag) for tag in card.get("tags") or []],
        **{key: card[key] for key in ("library_name", "pipeline_tag") if key in card},
        **({"cardData": card} if card else {}),
        "siblings": [sibling(path, file, blobs=blobs) for path, file in sorted(commit.files.items())],
        "usedStorage": sum(file.size for file in commit.files.values()),
    }
    if wanted := request.query.get("expand"):
        found = {key: value for key, value in found.items() if key in {"_id", "id", "modelId", *wanted}}
    return answer_json(found)


def _card(service: Service, commit: Commit) -> dict[str, Any]:
    """The card's metadata as JSON can hold them; none if they cannot be read."""
    file = commit.files.get("README.md")
    try:
        found = cards.metadata(service.store.read(file).decode()) if file else {}
    except ValueError:
        return {}
    return {
        str(key): value if isinstance(value, str | int | list | dict) else str(value) for key, value in found.items()
    }


@route("GET", "/api/models/{repo}/tree/{revision}")
def tree(service: Service, request: Request, repo: str, revision: str) -> Answer:
    return tree_of(service, request, repo, revision, "")


@route("GET", "/api/models/{repo}/tree/{revision}/{folder*}")
def tree_of(service: Service, request: Request, repo: str, revision: str, folder: str) -> Answer:
    commit = service.readable(request, repo).resolve(revision)
    trees = git.tree_ids({path: file.oid for path, file in commit.files.items()})
    folder = folder.rstrip("/")
    if folder not in trees:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    prefix = f"{folder}/" if folder else ""
    deep = request.flag("recursive")
    inside = [path for path in {*commit.files, *trees} if path.startswith(prefix) and path != folder]
    names = sorted(path for path in inside if deep or "/" not in path[len(prefix) :])
    after = request.query.get("cursor", [""])[-1]
    left = [name for name in names if name > after]
    page = left[: service.page_size]
    rows = [entry(name, commit.files, trees) for name in page]
    return answer_json(rows, headers=_next_page(service, request, page[-1]) if len(page) < len(left) else None)


def _next_page(service: Service, request: Request, cursor: str) -> dict[str, str]:
    query = {**request.query, "cursor": [cursor]}
    return {"Link": f'<{service.hub_url}{request.path}?{urlencode(query, doseq=True, quote_via=quote)}>; rel="next"'}


@route("POST", "/api/models/{repo}/paths-info/{revision}")
def paths_info(service: Service, request: Request, repo: str, revision: str) -> Answer:
    commit = service.readable(request, repo).resolve(revision)
    trees = git.tree_ids({path: file.oid for path, file in commit.files.items()})
    is_json = request.headers.get("content-type", "").startswith("application/json")
    paths = request.json()["paths"] if is_json else request.form().get("paths", [])
    rows = [entry(path, commit.files, trees) for path in paths]
    return answer_json([row for row in rows if row is not None])


@route("GET", "/api/models/{repo}/refs")
def refs(service: Service, request: Request, repo: str) -> Answer:
    repository = service.readable(request, repo)

    def rows(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in names.items()]

    found = {"branches": rows("heads", repository.branches), "tags": rows("tags", repository.tags), "converts": []}
    if request.flag("include_prs"):
        found["pullRequests"] = rows("pr", {str(pull.number): pull.head for pull in repository.pulls})
    return answer_json(found)


@route("GET", "/api/models/{repo}/commits/{revision}")
def commits(service: Service, request: Request, repo: str, revision: str) -> Answer:
    def row(commit: Commit) -> dict[str, Any]:
        names = {"title": commit.title, "message": commit.description, "authors": [{"user": commit.author}]}
        return {"id": commit.sha, "date": instant(commit.time), **names}

    return answer_json([row(commit) for commit in service.readable(request, repo).history(revision)])
