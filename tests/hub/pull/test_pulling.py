"""Pulling: one commit, only what is safe, to the cache or a folder, verified; what is here is not fetched again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from si_hub.errors import (
    ChecksumError,
    FileAccessError,
    GatedRepository,
    MissingEntry,
    MissingRepository,
    MissingRevision,
    UsageError,
)
from si_hub.hub.pull import Pulled, pull
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import CARD, EXPECTED, FILES, OURS, PICTURE, STYLE, UNSAFE, edit_listing, fetched, kohya, tree


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
    assert "samples/\\u202egnp.1.png" in done.as_text()
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


# What is not what it should be.


@pytest.mark.parametrize("name", ["README.md", "config.json", "samples/1.png"])
def test_a_card_of_ten_megabytes_and_its_like_stay_where_they_are(name: str, style: LoopbackHub) -> None:
    size = 60_000_000 if name.endswith("png") else 10_000_001
    listed = [{"rfilename": e, "size": len(d), "blobId": "0" * 40} for e, d in EXPECTED.items()]
    listed = [entry | ({"size": size} if entry["rfilename"] == name else {}) for entry in listed]
    edit_listing(style, siblings=[entry for entry in listed if entry["rfilename"] in (name, "styleinject.safetensors")])
    with pytest.raises(ChecksumError):
        pull(STYLE)
    assert name not in fetched(style)


# A transfer that breaks.


# The cache.


# A folder of the user's.


def test_a_folder_is_brought_up_to_date_and_the_user_s_words_are_not_touched(
    style: LoopbackHub, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pull(STYLE, local_dir=out)
    (out / "mine.txt").write_text("mine", encoding="utf-8")
    style.repo(STYLE).commit({"README.md": "new"})
    assert pull(STYLE, local_dir=out).fetched == 3
    assert (out / "README.md").read_text(encoding="utf-8") == "new"
    (out / "README.md").write_text("my own words", encoding="utf-8")
    style.repo(STYLE).commit({"README.md": "newer", "config.json": "{}"})
    with pytest.raises(
        FileAccessError, match=r"out/README\.md: is not as it was pulled, and would be lost.*force_download=True"
    ):
        pull(STYLE, local_dir=out)
    assert (out / "README.md").read_text(encoding="utf-8") == "my own words"
    assert (out / "config.json").read_bytes() == EXPECTED["config.json"]
    pull(STYLE, local_dir=out, force_download=True)
    assert (out / "README.md").read_text(encoding="utf-8") == "newer"
    assert (out / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_a_folder_takes_the_place_of_the_cache(style: LoopbackHub, tmp_path: Path, home: Path) -> None:
    done = pull(STYLE, local_dir=tmp_path / "new" / "out")
    assert done.folder == tmp_path / "new" / "out"
    assert tree(done.folder) == EXPECTED
    assert not (home / "hub").exists()


def test_a_file_of_the_same_name_is_not_overwritten(style: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(FileAccessError, match="would be lost"):
        pull(STYLE, local_dir=tmp_path)
    assert tree(tmp_path / "samples") == {}
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
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
    (outside / "x.md").write_text("mine", encoding="utf-8")
    (out / "README.md").symlink_to(outside / "x.md")
    if force:
        pull(STYLE, local_dir=out, force_download=True)
        assert not (out / "README.md").is_symlink()
    else:
        with pytest.raises(FileAccessError, match="would be lost"):
            pull(STYLE, local_dir=out)
    assert (outside / "x.md").read_text(encoding="utf-8") == "mine"


def test_offline_a_folder_is_filled_from_the_cache(style: LoopbackHub, tmp_path: Path) -> None:
    pull(STYLE)
    style.log.clear()
    pull(STYLE, local_dir=tmp_path / "out", local_files_only=True)
    assert tree(tmp_path / "out") == EXPECTED
    shutil.rmtree(tmp_path / "out")
    assert len(style.log) == 0


def test_a_file_in_the_way_of_the_folder_is_an_error(style: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(FileAccessError, match="cannot be written"):
        pull(STYLE, local_dir=tmp_path / "out")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_where_a_file_is_to_be_can_only_be_moved_away(force: bool, style: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "out" / "README.md").mkdir(parents=True)
    with pytest.raises(FileAccessError, match=r"README\.md: is a folder, where a file is to be\. Move it away\.$"):
        pull(STYLE, local_dir=tmp_path / "out", force_download=force)
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "README.md"]
