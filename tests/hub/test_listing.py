"""A commit's listing: what is no commit, size, hash or safe name stops everything that would rest on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from si_hub.errors import (
    BadListing,
)
from si_hub.hub.pull import pull
from tests.hub.loopback import LoopbackHub
from tests.hub.pull.world import STYLE, edit_listing, fetched


def sibling(name: str = "a.json", size: Any = 2, blob: Any = "0" * 40, **lfs: Any) -> dict[str, Any]:
    found = {"rfilename": name, "size": size, "blobId": blob}
    return found | ({"lfs": {"size": size, "pointerSize": 1, **lfs}} if lfs else {})


@pytest.mark.parametrize("sha", ["main", "../../../../x", "0" * 39, "G" * 40, None, 7])
def test_a_commit_that_is_not_hex_is_refused(sha: Any, style: LoopbackHub, home: Path) -> None:
    edit_listing(style, sha=sha)
    with pytest.raises(BadListing, match="the commit is no hash"):
        pull(STYLE)
    assert fetched(style) == []
    assert not (home / "hub").exists()


def test_another_commit_than_the_pinned_one_is_refused(style: LoopbackHub) -> None:
    edit_listing(style, sha="1" * 40)
    with pytest.raises(BadListing, match="another commit than asked for"):
        pull(f"{STYLE}@{style.repo(STYLE).head()}")


@pytest.mark.parametrize(
    "name",
    [
        "../../up.json",
        "/tmp/abs.json",
        "C:/x.json",
        "c:\\x.json",
        "a\\..\\b.json",
        "a\x00.json",
        "a\n.json",
        "./a.json",
    ],
)
def test_a_file_name_that_leads_out_stops_the_pull(name: str, style: LoopbackHub, tmp_path: Path) -> None:
    edit_listing(style, siblings=[sibling("ok.safetensors"), sibling(name)])
    with pytest.raises(BadListing, match="a file's name"):
        pull(STYLE, local_dir=tmp_path / "out" / "deep")
    assert fetched(style) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "entry",
    [sibling(blob="x"), sibling(blob=None), sibling(blob="../../" + "0" * 34), sibling(size=-1), sibling(size=None),
     sibling(size="2"), sibling(sha256="0" * 63), sibling(sha256="../" + "0" * 61), sibling(sha256="A" * 64)],
)  # fmt: skip
def test_sizes_and_hashes_that_are_none_stop_the_pull(entry: dict[str, Any], style: LoopbackHub, home: Path) -> None:
    edit_listing(style, siblings=[entry])
    with pytest.raises(BadListing):
        pull(STYLE)
    assert fetched(style) == []
    assert not (home / "hub").exists()


def test_names_that_fall_together_without_case_stop_the_pull(style: LoopbackHub) -> None:
    style.repo(STYLE).commit({"Config.json": "[]"})
    with pytest.raises(BadListing, match=r"config\.json: two names are one file.*\(found Config\.json\)"):
        pull(STYLE)
    assert fetched(style) == []
