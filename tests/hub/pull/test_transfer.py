"""Transfers: bytes that are wrong, too many, slow or broken off are fetched again, and nothing else is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub.errors import (
    ChecksumError,
    NetworkError,
)
from si_hub.hub.pull import pull
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import EXPECTED, OURS, STYLE, tree


def test_a_redirect_to_elsewhere_takes_no_token_along(style: LoopbackHub) -> None:
    style.fault(faults.redirect(f"{style.files_url}/blob/{'0' * 64}"), on="/resolve/", times=None)
    with pytest.raises(NetworkError, match=r"the file server answers HTTP 40[34]"):
        pull(STYLE, token=style.token("writer"))
    style.clear_faults()
    style.fault(faults.redirect(f"{style.files_url}/nothing"), on="GET /api/models/", times=None)
    with pytest.raises(NetworkError, match=r"the file server answers HTTP 40[34]"):
        pull(STYLE, token=style.token("writer"))
    there = [entry for entry in style.log if entry.server == "files"]
    assert len(there) >= 2
    assert all("authorization" not in entry.headers for entry in there)


def test_another_port_of_the_same_host_is_elsewhere(style: LoopbackHub) -> None:
    """huggingface_hub 1.32 takes it for the Hub."""
    elsewhere = style.files_url.replace("127.0.0.1", "localhost")
    style.fault(faults.redirect(f"{elsewhere}/blob/{'0' * 64}"), on="/resolve/", times=None)
    with pytest.raises(NetworkError):
        pull(STYLE, token=style.token("writer"))
    there = [entry for entry in style.log if entry.server == "files"]
    assert there
    assert all("authorization" not in entry.headers for entry in there)


@pytest.mark.parametrize("file", ["README.md", "blob"])
def test_wrong_bytes_of_the_right_size_are_fetched_again_and_never_kept(file: str, style: LoopbackHub) -> None:
    on = "GET /blob/" if file == "blob" else f"/resolve/.*{file}"
    planned = style.fault(faults.corrupt(), on=on, times=2)
    assert tree(pull(STYLE).folder) == EXPECTED
    assert planned.met == 2
    style.fault(faults.corrupt(), on=on, times=None)
    with pytest.raises(ChecksumError, match=r"user/style: .*the bytes that arrive are not those.*(sha256|git)"):
        pull(STYLE, force_download=True)
    assert tree(pull(STYLE, local_files_only=True).folder) == EXPECTED


def test_a_body_that_does_not_end_is_left_where_it_exceeds_the_listing(style: LoopbackHub, tmp_path: Path) -> None:
    style.fault(faults.body(bytes(30_000_000)), on="GET /blob/", times=None)
    arrived: list[int] = []
    with pytest.raises(ChecksumError):
        pull(STYLE, local_dir=tmp_path / "out", progress=lambda done, total: arrived.append(done))
    assert len([entry for entry in style.log if entry.server == "files"]) == 3
    assert max(arrived) < 2_000_000
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("etag", ['"../../../../../escaped"', '"/tmp/escaped"', '""', None])
def test_headers_of_a_file_name_no_place(etag: str | None, style: LoopbackHub, tmp_path: Path) -> None:
    wrong = faults.headers(ETag=etag, X_Linked_ETag=etag, X_Repo_Commit="../../../../escaped")
    style.fault(wrong, on="/resolve/", times=None)
    assert tree(pull(STYLE).folder) == EXPECTED
    assert not list(tmp_path.rglob("escaped*"))


def test_a_broken_transfer_goes_on_where_it_broke(style: LoopbackHub) -> None:
    half = len(OURS) // 2
    style.fault(faults.cut(half), on="GET /blob/")
    assert tree(pull(STYLE).folder) == EXPECTED
    first, second = [entry for entry in style.log if entry.server == "files"]
    assert "range" not in first.headers
    assert second.headers["range"] == f"bytes={half}-"
    assert second.answered == len(OURS) - half


@pytest.mark.parametrize("on", ["/api/models/", "/blob/"])
def test_a_server_that_falls_silent_is_asked_again(
    on: str, style: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("si_hub.hub.listing.TIMEOUT", 0.3)
    monkeypatch.setattr("si_hub.hub.pull.transfer.TIMEOUT", 0.3)
    silent = style.fault(faults.delay(1), on=on)
    assert tree(pull(STYLE).folder) == EXPECTED
    assert silent.met == 1
    assert len([entry for entry in style.log if on in entry.path]) == 2


def test_what_a_call_leaves_unfinished_the_next_one_starts_afresh(style: LoopbackHub, home: Path) -> None:
    style.fault(faults.cut(100), on="GET /blob/", times=None)
    with pytest.raises(Exception, match="the connection to the Hub was lost"):
        pull(STYLE)
    assert not list(home.rglob("*.tmp"))
    style.clear_faults()
    style.log.clear()
    pull(STYLE)
    assert all("range" not in entry.headers for entry in style.log)


def test_progress_counts_every_byte_once(style: LoopbackHub) -> None:
    seen: list[tuple[int, int]] = []
    style.fault(faults.cut(1000), on="GET /blob/")
    style.fault(faults.corrupt(), on="/resolve/.*png")
    pull(STYLE, progress=lambda done, total: seen.append((done, total)))
    total = sum(map(len, EXPECTED.values()))
    assert {of for _, of in seen} == {total}
    assert seen[-1] == (total, total)
