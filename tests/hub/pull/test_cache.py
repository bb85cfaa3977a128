"""The cache: huggingface_hub's own, verified whenever it is used, and believed for no more than it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir

from si_hub.errors import (
    FileAccessError,
    MissingFile,
    UsageError,
)
from si_hub.hub.pull import pull
from si_hub.hub.pull.cache import Cache
from tests.hub.loopback import LoopbackHub
from tests.hub.pull.world import EXPECTED, STYLE, fetched, tree
from tests.systems import IS_ROOT


def test_the_cache_is_huggingface_hub_s_own(style: LoopbackHub, home: Path) -> None:
    folder = pull(STYLE).folder
    for name in EXPECTED:
        assert hf_hub_download(STYLE, name, local_files_only=True) == str(folder / name)
    style.log.clear()
    assert hf_hub_download(STYLE, "README.md") == str(folder / "README.md")
    assert [entry.method for entry in style.log if "/resolve/" in entry.path] == ["HEAD"]
    info = scan_cache_dir(home / "hub")
    assert not info.warnings
    [repo] = info.repos
    assert repo.repo_id == STYLE
    [revision] = repo.revisions
    assert revision.commit_hash == style.repo(STYLE).head()
    assert revision.refs == {"main"}
    assert {file.file_path.relative_to(folder).as_posix() for file in revision.files} == set(EXPECTED)


def test_what_huggingface_hub_fetched_is_not_fetched_again(style: LoopbackHub) -> None:
    hf_hub_download(STYLE, "styleinject.safetensors")
    style.log.clear()
    pull(STYLE)
    assert fetched(style) == ["README.md", "config.json", "samples/1.png"]


@pytest.mark.parametrize("name", ["styleinject.safetensors", "README.md"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_cached_file_that_changed_is_found_and_fetched_anew(name: str, pinned: bool, style: LoopbackHub) -> None:
    done = pull(STYLE)
    file = (done.folder / name).resolve()
    file.write_bytes(bytes(file.stat().st_size))
    style.log.clear()
    again = pull(done.lock if pinned else STYLE)
    assert fetched(style) == [name]
    assert tree(again.folder) == EXPECTED
    assert not file.is_symlink()
    assert file.read_bytes() == EXPECTED[name]


def test_offline_a_cached_file_that_changed_is_no_adapter(style: LoopbackHub) -> None:
    done = pull(STYLE)
    blob = (done.folder / "styleinject.safetensors").resolve()
    blob.write_bytes(b"x")
    with pytest.raises(
        MissingFile, match=rf"{done.lock}: styleinject\.safetensors: is not in the cache.*si_hub\.pull\('"
    ):
        pull(STYLE, local_files_only=True)
    assert not os.path.lexists(done.folder / "styleinject.safetensors")
    assert not blob.exists()


def test_a_commit_shares_the_files_of_another(style: LoopbackHub) -> None:
    before = pull(STYLE)
    style.repo(STYLE).commit({"README.md": "new"})
    style.log.clear()
    done = pull(STYLE)
    assert fetched(style) == ["README.md"]
    assert done.fetched == 3
    assert (done.folder / "styleinject.safetensors").samefile(before.folder / "styleinject.safetensors")


def test_without_links_the_cache_holds_the_files_themselves(
    style: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    done = pull(STYLE)
    assert not any(path.is_symlink() for path in done.folder.rglob("*"))
    assert tree(pull(done.lock, local_files_only=True).folder) == EXPECTED


def test_a_cache_without_our_record_serves_offline_by_the_names_of_its_blobs(style: LoopbackHub, home: Path) -> None:
    for name in EXPECTED:
        hf_hub_download(STYLE, name)
    assert set(pull(STYLE, local_files_only=True).files) == set(EXPECTED)
    blob = (pull(STYLE, local_files_only=True).folder / "README.md").resolve()
    blob.write_bytes(b"y" * blob.stat().st_size)
    with pytest.raises(MissingFile, match=r"README\.md: is not in the cache"):
        pull(STYLE, local_files_only=True)


def test_a_part_of_a_commit_is_never_taken_for_all_of_it(style: LoopbackHub, home: Path) -> None:
    path = Path(hf_hub_download(STYLE, "styleinject.safetensors"))
    lock = f"{STYLE}@{path.parent.name}"
    assert pull(lock, local_files_only=True).files == ("styleinject.safetensors",)
    assert not list(home.rglob("si-hub/*.json"))
    assert set(pull(lock).files) == set(EXPECTED)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"commit": "x"}', b"\xff"])
def test_a_damaged_record_is_none(damage: bytes, style: LoopbackHub, home: Path) -> None:
    done = pull(STYLE)
    [record] = (home / "hub").glob("models--*/si-hub/*.json")
    record.write_bytes(damage)
    assert Cache(STYLE).known_listing(done.commit) is None
    assert pull(done.lock).fetched == 0
    assert Cache(STYLE).known_listing(done.commit) is not None


@pytest.mark.parametrize("change", [{"commit": "1" * 40}, {"repo_id": "user/other"}])
def test_a_record_of_something_else_is_none(change: dict[str, str], style: LoopbackHub, home: Path) -> None:
    done = pull(STYLE)
    [record] = (home / "hub").glob("models--*/si-hub/*.json")
    record.write_text(json.dumps(json.loads(record.read_text(encoding="utf-8")) | change), encoding="utf-8")
    assert Cache(STYLE).known_listing(done.commit) is None
    assert pull(done.lock).lock == done.lock


def test_a_record_that_is_wrong_is_not_believed_for_ever(style: LoopbackHub, home: Path) -> None:
    done = pull(STYLE)
    [record] = (home / "hub").glob("models--*/si-hub/*.json")
    data = json.loads(record.read_text(encoding="utf-8"))
    data["files"]["README.md"]["digest"] = "0" * 40
    record.write_text(json.dumps(data), encoding="utf-8")
    assert tree(pull(done.lock).folder) == EXPECTED
    assert json.loads(record.read_text(encoding="utf-8"))["files"]["README.md"]["digest"] != "0" * 40


def test_offline_what_was_never_fetched_is_said_with_the_command(style: LoopbackHub) -> None:
    with pytest.raises(MissingFile, match=r"user/style@v1: is not in the cache.*si_hub\.pull\('user/style@v1'\)"):
        pull(f"{STYLE}@v1", local_files_only=True)
    with pytest.raises(UsageError, match="force_download"):
        pull(STYLE, local_files_only=True, force_download=True)
    assert len(style.log) == 0


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_a_cache_that_is_read_only_serves_what_it_has(style: LoopbackHub, home: Path) -> None:
    done = pull(STYLE)
    for folder in [home, *(path for path in home.rglob("*") if path.is_dir())]:
        folder.chmod(0o500)
    try:
        assert pull(done.lock).fetched == pull(STYLE).fetched == 0
        style.repo(STYLE).commit({"README.md": "new"})
        with pytest.raises(FileAccessError, match="cannot be written"):
            pull(STYLE)
    finally:
        for folder in [home, *(path for path in home.rglob("*") if path.is_dir())]:
            folder.chmod(0o700)
