"""Pulling: one commit, only what is safe, to the cache or a folder, verified; what is here is not fetched again."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir

from si_hub.errors import (
    BadListing,
    ChecksumError,
    FileAccessError,
    GatedRepository,
    MissingEntry,
    MissingFile,
    MissingRepository,
    MissingRevision,
    NetworkError,
    UsageError,
)
from si_hub.hub.pull import Pulled, pull
from si_hub.hub.pull.cache import Cache
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import CARD, FILES, OURS, PICTURE, STYLE, UNSAFE, kohya, tree

EXPECTED = {name: data if isinstance(data, bytes) else data.encode() for name, data in FILES.items()}


@pytest.fixture
def style(client: LoopbackHub, waits: list[float]) -> LoopbackHub:
    client.repo(STYLE).commit({**FILES, **UNSAFE})
    client.repo(STYLE).tag("v1")
    return client


def fetched(hub: LoopbackHub) -> list[str]:
    """Files of the repository that were asked for, in order of their names; the log starts anew."""
    names = sorted(re.sub(r".*/resolve/[^/]+/", "", e.path) for e in hub.log if "/resolve/" in e.path)
    hub.log.clear()
    return names


def test_a_pull_brings_everything_that_is_safe_and_names_the_rest(style: LoopbackHub) -> None:
    done = pull(STYLE)
    assert tree(done.folder) == EXPECTED
    assert set(done.files) == set(EXPECTED)
    assert set(done.left_out) == {*UNSAFE, ".gitattributes"}
    assert done.left_out["pytorch_model.bin"] == "is a pickle, which can run any code"
    assert done.fetched == done.size == sum(map(len, EXPECTED.values()))
    assert done.lock == f"{STYLE}@{style.repo(STYLE).head()}"
    assert done.as_dict()["lock"] == done.lock
    assert done.as_text().splitlines()[-1] == f"  lock     {done.lock}"


def test_names_that_would_turn_the_terminal_around_are_shown_without_that(style: LoopbackHub) -> None:
    style.repo(STYLE).commit({"samples/\u202egnp.1.png": PICTURE})
    done = pull(STYLE)
    assert "samples/\u202egnp.1.png" in done.files
    assert "samples/ gnp.1.png" in done.as_text()
    assert "\u202e" not in done.as_text()


def test_the_server_has_never_been_asked_for_a_pickle_or_code(style: LoopbackHub, tmp_path: Path) -> None:
    pull(STYLE)
    pull(STYLE, local_dir=tmp_path / "out", force_download=True)
    assert {name.rpartition(".")[2] for name in fetched(style)} == {"safetensors", "json", "md", "png"}


def test_one_request_for_the_listing_one_for_each_file_and_one_at_the_file_server(style: LoopbackHub) -> None:
    pull(STYLE)
    assert len(style.log) == 1 + len(FILES) + 1
    assert [e.server for e in style.log].count("files") == 1


def test_nothing_is_fetched_twice(style: LoopbackHub, tmp_path: Path, home: Path) -> None:
    first = pull(STYLE)
    style.log.clear()
    assert pull(STYLE).fetched == 0
    assert [str(entry) for entry in style.log] == ["hub GET /api/models/user/style?blobs=true -> 200"]
    style.log.clear()
    assert pull(first.lock).fetched == 0
    assert pull(first.lock, local_dir=tmp_path / "out").fetched == 0
    assert len(style.log) == 0
    assert tree(tmp_path / "out") == EXPECTED
    assert [path.name for path in home.rglob("refs/*")] == ["main"]


def test_force_download_fetches_all_of_it_again(style: LoopbackHub) -> None:
    pull(STYLE)
    style.log.clear()
    assert pull(STYLE, force_download=True).fetched == sum(map(len, EXPECTED.values()))
    assert fetched(style) == sorted(EXPECTED)


def test_a_lock_line_gives_the_same_bytes_whatever_happened_since(style: LoopbackHub, tmp_path: Path) -> None:
    lock = pull(STYLE, cache_dir=tmp_path / "first").lock
    style.repo(STYLE).commit({"README.md": "other", "styleinject.safetensors": None, "new.safetensors": kohya()})
    assert tree(pull(lock, cache_dir=tmp_path / "second").folder) == EXPECTED
    assert set(tree(pull(STYLE, cache_dir=tmp_path / "second").folder)) == {
        "README.md", "config.json", "new.safetensors", "samples/1.png",
    }  # fmt: skip


@pytest.mark.parametrize("revision", ["v1", "main", "dev", "refs/pr/7"])
def test_any_revision_is_one_commit(revision: str, style: LoopbackHub) -> None:
    repo = style.repo(STYLE)
    repo.branch("dev")
    repo.branch("refs/pr/7")
    done = pull(f"{STYLE}@{revision}")
    assert done.commit == repo.head()
    resolved = {entry.path.split("/")[4] for entry in style.log if "/resolve/" in entry.path}
    assert resolved == {done.commit}
    assert pull(STYLE, revision=revision, local_files_only=True) == Pulled(**{**vars_of(done), "fetched": 0})


def vars_of(done: Pulled) -> dict[str, Any]:
    return {name: getattr(done, name) for name in Pulled.__dataclass_fields__}


def test_a_commit_that_came_in_between_changes_nothing_of_the_pull(style: LoopbackHub) -> None:
    """The listing names the commit; the branch may move before the first file is asked for."""
    before = style.repo(STYLE).head()

    def move(info: Any) -> Any:
        style.repo(STYLE).commit({"README.md": "moved"})
        return info

    style.fault(faults.edited(move), on="GET /api/models/")
    done = pull(STYLE)
    assert done.commit == before
    assert tree(done.folder) == EXPECTED


def test_only_a_subfolder_and_only_one_file_of_the_weights(style: LoopbackHub) -> None:
    style.repo(STYLE).commit({"big/a.safetensors": OURS, "big/b.safetensors": OURS, "big/note.md": "x"})
    done = pull(STYLE, subfolder="big", weight_name="b.safetensors")
    assert done.files == ("big/b.safetensors", "big/note.md")
    assert done.left_out["big/a.safetensors"] == "was not asked for"
    assert done.left_out["README.md"] == "is not in big"
    with pytest.raises(MissingEntry, match=r"big/c\.safetensors: has no such file.*found .*styleinject\.safetensors"):
        pull(STYLE, subfolder="big", weight_name="c.safetensors")
    with pytest.raises(MissingEntry, match="only safetensors files are fetched"):
        pull(STYLE, weight_name="pytorch_model.bin")


def test_a_repository_of_pickles_alone_is_refused(client: LoopbackHub) -> None:
    client.repo("user/old").commit({"pytorch_lora_weights.bin": b"\x80\x04", "README.md": "hi"})
    with pytest.raises(MissingEntry, match=r"holds no safetensors file \(found pytorch_lora_weights\.bin\).*ask for"):
        pull("user/old")
    assert fetched(client) == []


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [("user/gone", MissingRepository, "no such repository"), (f"{STYLE}@gone", MissingRevision, "no such revision"),
     (f"{STYLE}@{'0' * 40}", MissingRevision, "no such revision"), ("user/gated", GatedRepository, "grant access"),
     ("user/secret", MissingRepository, "a private one"), ("no id at all", UsageError, "is no repository id")],
)  # fmt: skip
def test_what_cannot_be_pulled_is_said(
    reference: str, kind: type[Exception], words: str, style: LoopbackHub, tmp_path: Path
) -> None:
    style.repo("user/gated", gated=True).commit(FILES)
    style.repo("user/secret", private=True).commit(FILES)
    with pytest.raises(kind, match=words):
        pull(reference, token=style.token("other"), local_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists() or tree(tmp_path / "out") == {}


def test_the_token_opens_what_is_private_or_gated_and_stays_with_the_hub(style: LoopbackHub) -> None:
    style.repo("user/secret", private=True).commit(FILES)
    gated = style.repo("user/gated", gated=True)
    gated.commit(FILES)
    gated.admit("other")
    assert tree(pull("user/secret", token=style.token("reader")).folder) == EXPECTED
    assert tree(pull("user/gated", token=style.token("visitor")).folder) == EXPECTED
    tokens = {server: {e.token for e in style.log if e.server == server} for server in ("hub", "files")}
    assert tokens == {"hub": {style.token("reader"), style.token("visitor")}, "files": {None}}


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


# What is not what it should be.


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


def edit(hub: LoopbackHub, **changes: Any) -> None:
    """The listing as a strange Hub would give it."""
    hub.fault(faults.edited(lambda info: info | changes), on="GET /api/models/", times=None)


def sibling(name: str = "a.json", size: Any = 2, blob: Any = "0" * 40, **lfs: Any) -> dict[str, Any]:
    found = {"rfilename": name, "size": size, "blobId": blob}
    return found | ({"lfs": {"size": size, "pointerSize": 1, **lfs}} if lfs else {})


@pytest.mark.parametrize("sha", ["main", "../../../../x", "0" * 39, "G" * 40, None, 7])
def test_a_commit_that_is_not_hex_is_refused(sha: Any, style: LoopbackHub, home: Path) -> None:
    edit(style, sha=sha)
    with pytest.raises(BadListing, match="the commit is no hash"):
        pull(STYLE)
    assert fetched(style) == []
    assert not (home / "hub").exists()


def test_another_commit_than_the_pinned_one_is_refused(style: LoopbackHub) -> None:
    edit(style, sha="1" * 40)
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
    edit(style, siblings=[sibling("ok.safetensors"), sibling(name)])
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
    edit(style, siblings=[entry])
    with pytest.raises(BadListing):
        pull(STYLE)
    assert fetched(style) == []
    assert not (home / "hub").exists()


def test_names_that_fall_together_without_case_stop_the_pull(style: LoopbackHub) -> None:
    style.repo(STYLE).commit({"Config.json": "[]"})
    with pytest.raises(BadListing, match=r"config\.json: two names are one file.*\(found Config\.json\)"):
        pull(STYLE)
    assert fetched(style) == []


@pytest.mark.parametrize("name", ["README.md", "config.json", "samples/1.png"])
def test_a_card_of_ten_megabytes_and_its_like_stay_where_they_are(name: str, style: LoopbackHub) -> None:
    size = 60_000_000 if name.endswith("png") else 10_000_001
    listed = [{"rfilename": e, "size": len(d), "blobId": "0" * 40} for e, d in EXPECTED.items()]
    listed = [entry | ({"size": size} if entry["rfilename"] == name else {}) for entry in listed]
    edit(style, siblings=[entry for entry in listed if entry["rfilename"] in (name, "styleinject.safetensors")])
    with pytest.raises(ChecksumError):
        pull(STYLE)
    assert name not in fetched(style)


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


# A transfer that breaks.


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


# The cache.


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
    pull(STYLE)
    style.repo(STYLE).commit({"README.md": "new"})
    style.log.clear()
    done = pull(STYLE)
    assert fetched(style) == ["README.md"]
    assert done.fetched == 3
    assert (done.folder / "styleinject.safetensors").is_symlink()


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
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    assert Cache(STYLE).known_listing(done.commit) is None
    assert pull(done.lock).lock == done.lock


def test_a_record_that_is_wrong_is_not_believed_for_ever(style: LoopbackHub, home: Path) -> None:
    done = pull(STYLE)
    [record] = (home / "hub").glob("models--*/si-hub/*.json")
    data = json.loads(record.read_text())
    data["files"]["README.md"]["digest"] = "0" * 40
    record.write_text(json.dumps(data))
    assert tree(pull(done.lock).folder) == EXPECTED
    assert json.loads(record.read_text())["files"]["README.md"]["digest"] != "0" * 40


def test_offline_what_was_never_fetched_is_said_with_the_command(style: LoopbackHub) -> None:
    with pytest.raises(MissingFile, match=r"user/style@v1: is not in the cache.*si_hub\.pull\('user/style@v1'\)"):
        pull(f"{STYLE}@v1", local_files_only=True)
    with pytest.raises(UsageError, match="force_download"):
        pull(STYLE, local_files_only=True, force_download=True)
    assert len(style.log) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
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


# A folder of the user's.


def test_a_folder_is_brought_up_to_date_and_the_user_s_words_are_not_touched(
    style: LoopbackHub, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pull(STYLE, local_dir=out)
    (out / "mine.txt").write_text("mine")
    style.repo(STYLE).commit({"README.md": "new"})
    assert pull(STYLE, local_dir=out).fetched == 3
    assert (out / "README.md").read_text() == "new"
    (out / "README.md").write_text("my own words")
    style.repo(STYLE).commit({"README.md": "newer", "config.json": "{}"})
    with pytest.raises(
        FileAccessError, match=r"out/README\.md: is not as it was pulled, and would be lost.*force_download=True"
    ):
        pull(STYLE, local_dir=out)
    assert (out / "README.md").read_text() == "my own words"
    assert (out / "config.json").read_bytes() == EXPECTED["config.json"]
    pull(STYLE, local_dir=out, force_download=True)
    assert (out / "README.md").read_text() == "newer"
    assert (out / "mine.txt").read_text() == "mine"


def test_a_folder_takes_the_place_of_the_cache(style: LoopbackHub, tmp_path: Path, home: Path) -> None:
    done = pull(STYLE, local_dir=tmp_path / "new" / "out")
    assert done.folder == tmp_path / "new" / "out"
    assert tree(done.folder) == EXPECTED
    assert not (home / "hub").exists()


def test_a_file_of_the_same_name_is_not_overwritten(style: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileAccessError, match="would be lost"):
        pull(STYLE, local_dir=tmp_path)
    assert tree(tmp_path / "samples") == {}
    (tmp_path / "README.md").write_text(CARD)
    assert pull(STYLE, local_dir=tmp_path).fetched == sum(map(len, EXPECTED.values())) - len(CARD)


@pytest.mark.parametrize("link", ["samples", ".cache"])
@pytest.mark.parametrize("force", [False, True])
def test_links_never_lead_out_of_the_folder(link: str, force: bool, style: LoopbackHub, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / link).symlink_to(outside)
    with pytest.raises(FileAccessError, match="a link leads out of the folder"):
        pull(STYLE, local_dir=out, force_download=force)
    assert list(outside.iterdir()) == []
    (out / link).unlink()
    (outside / "x.md").write_text("mine")
    (out / "README.md").symlink_to(outside / "x.md")
    if force:
        pull(STYLE, local_dir=out, force_download=True)
        assert not (out / "README.md").is_symlink()
    else:
        with pytest.raises(FileAccessError, match="would be lost"):
            pull(STYLE, local_dir=out)
    assert (outside / "x.md").read_text() == "mine"


def test_offline_a_folder_is_filled_from_the_cache(style: LoopbackHub, tmp_path: Path) -> None:
    pull(STYLE)
    style.log.clear()
    pull(STYLE, local_dir=tmp_path / "out", local_files_only=True)
    assert tree(tmp_path / "out") == EXPECTED
    shutil.rmtree(tmp_path / "out")
    assert len(style.log) == 0


def test_a_file_in_the_way_of_the_folder_is_an_error(style: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(FileAccessError, match="cannot be written"):
        pull(STYLE, local_dir=tmp_path / "out")
