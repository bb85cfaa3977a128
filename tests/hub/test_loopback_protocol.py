"""The loopback Hub byte by byte: connections, ranges, signatures, what it logs, what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub.loopback import LoopbackHub, faults

ID = "user/style"
CONTENT = bytes(range(256)) * 80
HREF = f"/{ID}/resolve/main/a.json"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path_factory.mktemp("hub")) as hub:
        hub.repo(ID).commit({"a.json": "0123456789", "w.safetensors": CONTENT})
        yield hub


class Line:
    """One connection, kept."""

    def __init__(self, url: str) -> None:
        self.connection = HTTPConnection(urlsplit(url).netloc, timeout=10)

    def ask(self, method: str, target: str, body: object = None, **headers: str) -> tuple[HTTPResponse, bytes]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, target, body, names)  # type: ignore[arg-type]
        answer = self.connection.getresponse()
        return answer, answer.read()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@pytest.fixture
def line(served: LoopbackHub) -> Iterator[Line]:
    served.log.clear()
    with Line(served.url) as line:
        yield line


def test_one_connection_serves_request_after_request(line: Line) -> None:
    asked = [("GET", HREF), ("HEAD", HREF), ("GET", "/nope"), ("POST", "/api/repos/create"), ("GET", HREF)]
    line.ask("GET", HREF)
    socket = line.connection.sock
    assert [line.ask(*each)[0].status for each in asked] == [200, 200, 404, 401, 200]
    assert line.connection.sock is socket


def test_head_has_the_head_of_get_and_no_body(line: Line) -> None:
    got, body = line.ask("GET", HREF)
    head, nothing = line.ask("HEAD", HREF)
    assert (body, nothing) == (b"0123456789", b"")
    assert head.getheader("Content-Length") == got.getheader("Content-Length") == "10"
    unchanging = {name: value for name, value in got.getheaders() if name != "Date"}
    assert {name: value for name, value in head.getheaders() if name != "Date"} == unchanging


def test_a_body_in_chunks_is_read_whole(line: Line, served: LoopbackHub) -> None:
    answer, body = line.ask("POST", "/api/validate-yaml", iter([b'{"content": "---\\n', b'a: 1\\n---\\n"}']))
    assert (answer.status, json.loads(body)) == (200, {"errors": [], "warnings": []})
    assert served.log[-1].body == b'{"content": "---\\na: 1\\n---\\n"}'


@pytest.mark.parametrize(
    ("asked", "status", "expected", "span"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
    ],
)
def test_a_range_is_its_bytes(line: Line, asked: str, status: int, expected: bytes, span: str | None) -> None:
    answer, body = line.ask("GET", HREF, Range=asked)
    assert (answer.status, body, answer.getheader("Content-Range")) == (status, expected, span)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=5-4"])
def test_a_range_of_nothing_is_416(line: Line, asked: str) -> None:
    answer, _ = line.ask("GET", HREF, Range=asked)
    assert (answer.status, answer.getheader("Content-Range")) == (416, "bytes */10")


@given(st.integers(0, len(CONTENT) - 1), st.integers(0, len(CONTENT) * 2))
@settings(max_examples=40, deadline=None)
def test_any_range_of_a_large_file_is_its_bytes(served: LoopbackHub, start: int, length: int) -> None:
    with Line(served.url) as line:
        location = urlsplit(line.ask("GET", f"/{ID}/resolve/main/w.safetensors")[0].getheader("Location") or "")
    with Line(served.files_url) as files:
        answer, body = files.ask("GET", f"{location.path}?{location.query}", Range=f"bytes={start}-{start + length}")
    assert answer.status == 206
    assert body == CONTENT[start : start + length + 1]


SEGMENT = st.sampled_from(["a", "b", "a-b", "a.b", "A", "ä", "0", " "])
PATHS = st.sets(st.lists(SEGMENT, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12)


@given(PATHS, st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_pages_of_any_length_make_the_whole_listing(served: LoopbackHub, names: set[str], page_size: int) -> None:
    """A name that is a folder too is left out: git has no such thing."""
    names = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}
    served.repo("user/pages").delete()
    served.repo("user/pages").commit(dict.fromkeys(names, "{}"))
    served.service.page_size, rows = page_size, []
    target: str | None = "/api/models/user/pages/tree/main?recursive=true"
    with Line(served.url) as line:
        while target:
            answer, body = line.ask("GET", target)
            rows += json.loads(body)
            assert len(json.loads(body)) <= page_size
            found = re.fullmatch(rf'<{served.url}(.*)>; rel="next"', answer.getheader("Link") or "")
            target = found and found[1]
    folders = {name.rsplit("/", depth)[0] for name in names for depth in range(1, name.count("/") + 1)}
    assert [row["path"] for row in rows if row["type"] == "file"] == sorted({*names, ".gitattributes"})
    assert [row["path"] for row in rows if row["type"] == "directory"] == sorted(folders)


def test_a_large_file_is_elsewhere(line: Line, served: LoopbackHub) -> None:
    answer, body = line.ask("HEAD", f"/{ID}/resolve/main/w.safetensors")
    file = served.repo(ID).listing()["w.safetensors"]
    location = urlsplit(answer.getheader("Location") or "")
    assert (answer.status, body) == (302, b"")
    assert (urlsplit(served.url).hostname, location.hostname) == ("localhost", "127.0.0.1")
    assert f"{location.scheme}://{location.netloc}" == served.files_url
    assert answer.getheader("X-Linked-Etag") == f'"{file.sha256}"'
    assert answer.getheader("X-Linked-Size") == str(len(CONTENT))
    assert answer.getheader("X-Repo-Commit") == served.repo(ID).head()


def test_the_file_server_knows_its_addresses_and_takes_no_token(line: Line, served: LoopbackHub) -> None:
    href = line.ask("GET", f"/{ID}/resolve/main/w.safetensors")[0].getheader("Location") or ""
    target = href.removeprefix(served.files_url)
    with Line(served.files_url) as files:
        assert files.ask("GET", target)[0].status == 200
        assert files.ask("GET", target[:-1])[0].status == 403
        assert files.ask("GET", target, Authorization=f"Bearer {served.token()}")[0].status == 400
        assert files.ask("PUT", target.replace("blob", "upload"), b"x")[0].status == 403
        assert files.ask("GET", HREF)[0].status == 404


def test_no_answer_offers_xet(line: Line, served: LoopbackHub) -> None:
    asked = {
        "operation": "upload",
        "transfers": ["basic", "multipart", "xet"],
        "objects": [{"oid": "0" * 64, "size": 1}],
    }
    bearer = f"Bearer {served.token()}"
    _, body = line.ask("POST", f"/{ID}.git/info/lfs/objects/batch", json.dumps(asked), Authorization=bearer)
    answer, _ = line.ask("HEAD", f"/{ID}/resolve/main/w.safetensors")
    assert json.loads(body)["transfer"] == "basic"
    assert not [name for name, _ in answer.getheaders() if "xet" in name.lower()]


def test_uploaded_bytes_that_are_others_are_refused_and_forgotten(line: Line, served: LoopbackHub) -> None:
    oid, bearer = "1" * 64, f"Bearer {served.token()}"
    actions = order(line, served, oid, 4)["actions"]
    with Line(served.files_url) as files:
        put = actions["upload"]["href"].removeprefix(served.files_url)
        assert files.ask("PUT", put, b"lies")[0].status == 200
    verify = actions["verify"]["href"].removeprefix(served.url)
    assert line.ask("POST", verify, json.dumps({"oid": oid, "size": 4}), Authorization=bearer)[0].status == 422
    head = served.repo(ID).head()
    commit = [{"key": "header", "value": {"summary": "m"}}]
    commit += [{"key": "lfsFile", "value": {"path": "x", "algo": "sha256", "oid": oid, "size": 4}}]
    lines = "\n".join(map(json.dumps, commit))
    assert line.ask("POST", f"/api/models/{ID}/commit/main", lines, Authorization=bearer)[0].status == 400
    assert served.repo(ID).head() == head


def order(line: Line, served: LoopbackHub, oid: str, size: int) -> dict[str, Any]:
    """What the Hub answers to the announcement of an upload."""
    asked = json.dumps({"objects": [{"oid": oid, "size": size}], "transfers": ["basic", "multipart"]})
    batch = f"/{ID}.git/info/lfs/objects/batch"
    found: dict[str, Any] = json.loads(line.ask("POST", batch, asked, Authorization=f"Bearer {served.token()}")[1])
    only: dict[str, Any] = found["objects"][0]
    return only


def test_an_upload_of_another_size_is_refused(line: Line, served: LoopbackHub) -> None:
    oid, bearer = hashlib.sha256(b"four").hexdigest(), f"Bearer {served.token()}"
    actions = order(line, served, oid, 5)["actions"]
    with Line(served.files_url) as files:
        files.ask("PUT", actions["upload"]["href"].removeprefix(served.files_url), b"four")
    verify = actions["verify"]["href"].removeprefix(served.url)
    for size, status in ((5, 422), (4, 200)):
        assert (
            line.ask("POST", verify, json.dumps({"oid": oid, "size": size}), Authorization=bearer)[0].status == status
        )


def test_parts_are_joined_by_their_etags_only(line: Line, served: LoopbackHub) -> None:
    content = b"in three parts"
    served.service.chunk_size, oid = 5, hashlib.sha256(content).hexdigest()
    upload = order(line, served, oid, len(content))["actions"]["upload"]
    served.service.chunk_size = None
    assert sorted(upload["header"]) == ["1", "2", "3", "chunk_size"]
    etags = []
    with Line(served.files_url) as files:
        for number in (1, 2, 3):
            target = upload["header"][str(number)].removeprefix(served.files_url)
            etags.append(files.ask("PUT", target, content[number * 5 - 5 : number * 5])[0].getheader("ETag"))
    assert etags[0] == f'"{hashlib.md5(b"in th").hexdigest()}"'
    complete = upload["href"].removeprefix(served.url)
    for sent, status in ((etags[:2] + etags[:1], 400), (etags, 200)):
        parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(sent, 1)]
        assert line.ask("POST", complete, json.dumps({"oid": oid, "parts": parts[::-1]}))[0].status == status
    assert "actions" not in order(line, served, oid, len(content))
    assert served.service.store.blobs.read(oid) == content


@pytest.mark.parametrize("target", ["/api/models/user/nope", "/user/nope/resolve/main/a.json"])
def test_what_is_not_there_is_401_to_strangers_and_404_to_members(line: Line, served: LoopbackHub, target: str) -> None:
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {served.token('visitor')}"}, 404)):
        answer, _ = line.ask("GET", target, **headers)
        assert (answer.status, answer.getheader("X-Error-Code")) == (status, "RepoNotFound")


@pytest.mark.parametrize("name", ["a..b", "a--b", "-a", "a.", "ä", "n" * 97, "", "a/b", "../a"])
def test_a_repository_name_that_no_address_could_hold_is_refused(line: Line, served: LoopbackHub, name: str) -> None:
    body, before = json.dumps({"name": name}), served.repositories
    assert line.ask("POST", "/api/repos/create", body, Authorization=f"Bearer {served.token()}")[0].status == 400
    assert served.repositories == before


def test_a_card_that_is_no_yaml_is_not_committed_either(line: Line, served: LoopbackHub) -> None:
    content = base64.b64encode(b"---\na: [\n---\n").decode()
    card = {"key": "file", "value": {"path": "README.md", "content": content, "encoding": "base64"}}
    lines = "\n".join(map(json.dumps, [{"key": "header", "value": {"summary": "m"}}, card]))
    bearer = f"Bearer {served.token()}"
    assert line.ask("POST", f"/api/models/{ID}/commit/main", lines, Authorization=bearer)[0].status == 400


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", "a//x", ".git/config", "."])
def test_a_commit_takes_no_path_that_leaves_its_folder(line: Line, served: LoopbackHub, path: str) -> None:
    file = {"key": "file", "value": {"path": path, "content": "eA==", "encoding": "base64"}}
    lines = "\n".join(map(json.dumps, [{"key": "header", "value": {"summary": "m"}}, file]))
    bearer = f"Bearer {served.token()}"
    answer, _ = line.ask("POST", f"/api/models/{ID}/commit/main", lines, Authorization=bearer)
    assert (answer.status, path in served.repo(ID).listing()) == (400, False)


@pytest.mark.parametrize("body", ["", "{", '{"key": "file"}', '{"key": "header", "value": {"summary": ""}}'])
def test_a_commit_without_its_header_is_400(line: Line, served: LoopbackHub, body: str) -> None:
    bearer = f"Bearer {served.token()}"
    assert line.ask("POST", f"/api/models/{ID}/commit/main", body, Authorization=bearer)[0].status == 400


def test_the_log_holds_what_was_asked_and_answered(line: Line, served: LoopbackHub) -> None:
    served.fault(faults.status(418), "x=1")
    line.ask("POST", "/api/repos/create?x=1", b'{"name": "\xc3\xa4"}', Authorization="Bearer hf_x", X_Own="1")
    (seen,) = served.log
    assert (seen.server, seen.method, seen.path, seen.target) == (
        "hub", "POST", "/api/repos/create", "/api/repos/create?x=1",
    )  # fmt: skip
    assert (seen.body, seen.size, seen.token, seen.headers["x-own"]) == (b'{"name": "\xc3\xa4"}', 14, "hf_x", "1")
    assert (seen.status, seen.fault) == (418, "418")
    assert served.log.matching("create") == [seen]


def test_an_error_of_its_own_is_500_and_raised_when_it_closes(
    served: LoopbackHub, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hub = LoopbackHub(tmp_path_factory.mktemp("broken"))
    with Line(hub.url) as line:
        body = json.dumps({"unheard": "of"})
        assert line.ask("POST", "/api/validate-yaml", body)[0].status == 500
    with pytest.raises(KeyError, match="content"):
        hub.close()
