"""What of a folder is pushed, and what stays and why."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from si_hub.errors import (
    CardError,
    ChecksumError,
    FileAccessError,
    FormatError,
    MissingFile,
    NotStyleInject,
    UsageError,
)
from si_hub.hub.push import content
from si_hub.hub.push.content import collect_content, digest_bytes, is_our_config, prepare_file
from tests.miniature import INK, KOHYA_LORA
from tests.places import GOLDEN
from tests.systems import posix_alone

PNG = b"\x89PNG\r\n\x1a\n and so on"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One adapter, ``ink.safetensors``."""
    place = tmp_path / "style"
    place.mkdir()
    shutil.copy(GOLDEN / "one_branch.safetensors", place / "ink.safetensors")
    return place


def test_the_one_adapter_of_a_folder_goes_under_the_name_that_loaders_look_for(folder: Path) -> None:
    found = collect_content(folder)
    assert found.path == folder / "ink.safetensors"
    assert found.weights.name == "styleinject.safetensors"
    assert found.weights.digest.sha256 == hashlib.sha256((folder / "ink.safetensors").read_bytes()).hexdigest()
    assert (found.readme, found.samples, found.left_out) == (None, (), {})
    assert found.adapter.about["title"] == "One branch"


def test_the_hashes_are_those_of_git_and_of_lfs(tmp_path: Path) -> None:
    raw = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(raw)
    git = subprocess.run(["git", "hash-object", str(tmp_path / "x")], capture_output=True, text=True, check=True)
    found = prepare_file("x", tmp_path / "x").digest
    assert found == digest_bytes(raw)
    assert (found.git_sha1, found.sha256) == (git.stdout.strip(), hashlib.sha256(raw).hexdigest())


@posix_alone
def test_everything_else_stays_and_is_named_with_its_reason(folder: Path) -> None:
    shutil.copy(folder / "ink.safetensors", folder.parent / "elsewhere.safetensors")
    (folder / ".env").write_text("SECRET=1", encoding="utf-8")
    (folder / "model.ckpt").write_bytes(b"\x80\x04")
    (folder / "run.py").write_text("", encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "logs").mkdir()
    (folder / "link.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")
    (folder / "broken.safetensors").write_bytes(b"x")
    os.mkfifo(folder / "pipe")
    (folder / "samples").mkdir()
    (folder / "samples" / "a.png").write_bytes(PNG)
    (folder / "samples" / "b.png").write_bytes(b"<html>")
    (folder / "samples" / "c.pt").write_bytes(b"\x80")
    (folder / "samples" / "d e.png").write_bytes(PNG)
    (folder / "samples" / "e.png").symlink_to("/etc/passwd")
    os.mkfifo(folder / "samples" / "f.png")
    (folder / "samples" / ".hidden.png").write_bytes(PNG)
    found = collect_content(folder)
    assert [sample.name for sample in found.samples] == ["samples/a.png"]
    assert found.left_out == {
        ".env": "hidden",
        "model.ckpt": "a pickle, which can run any code",
        "run.py": "not a part of an adapter",
        "config.json": "the repository's is written by si-hub",
        "logs": "a folder",
        "link.safetensors": "a symbolic link",
        "broken.safetensors": "not a StyleInject file",
        "pipe": "not a regular file",
        "samples/b.png": "not the picture that its name says",
        "samples/c.pt": "a pickle, which can run any code",
        "samples/d e.png": "a name with other characters than letters, digits, '.', '_' and '-'",
        "samples/e.png": "a symbolic link",
        "samples/f.png": "not a regular file",
        "samples/.hidden.png": "a name with other characters than letters, digits, '.', '_' and '-'",
    }


def test_pictures_go_in_the_order_of_their_numbers_up_to_a_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "samples").mkdir()
    for number in range(1, 13):
        (folder / "samples" / f"{number}.png").write_bytes(PNG)
    (folder / "samples" / "0.png").write_bytes(PNG + bytes(100))
    monkeypatch.setattr(content, "MOST_SAMPLES", 10)
    monkeypatch.setattr(content, "LARGEST_SAMPLE", 100)
    found = collect_content(folder)
    assert [sample.name for sample in found.samples] == [f"samples/{number}.png" for number in range(1, 11)]
    assert set(found.left_out) == {"samples/0.png", "samples/11.png", "samples/12.png"}
    monkeypatch.setattr(content, "ALL_SAMPLES", 3 * len(PNG))
    assert len(collect_content(folder).samples) == 3


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_samples_that_is_no_folder_stays(folder: Path, kind: str) -> None:
    (folder / "samples").symlink_to("/tmp") if kind == "link" else (folder / "samples").write_text("", encoding="utf-8")
    assert collect_content(folder).left_out == {"samples": "not a folder of pictures"}


def test_several_adapters_are_listed_and_one_of_them_can_be_named(folder: Path) -> None:
    shutil.copy(GOLDEN / "kron.safetensors", folder)
    with pytest.raises(
        UsageError, match=r"found ink\.safetensors, kron\.safetensors.*si_hub\.push\('.*ink\.safetensors'\)"
    ):
        collect_content(folder)
    found = collect_content(folder / "kron.safetensors")
    assert found.left_out == {"ink.safetensors": "another adapter"}


def test_a_folder_of_foreign_files_shows_how_to_convert_one(folder: Path) -> None:
    (folder / "ink.safetensors").write_bytes((10).to_bytes(8, "little") + b'{"a":null}')
    with pytest.raises(NotStyleInject, match=r"si_hub\.convert\("):
        collect_content(folder)
    (folder / "ink.safetensors").unlink()
    with pytest.raises(MissingFile, match="holds no StyleInject file"):
        collect_content(folder)


def test_what_is_named_must_be_the_file_itself(folder: Path) -> None:
    (folder / "link.safetensors").symlink_to(folder / "ink.safetensors")
    (folder / "model.pt").write_bytes(b"\x80")
    with pytest.raises(UsageError, match=r"symbolic link.*ink\.safetensors"):
        collect_content(folder / "link.safetensors")
    with pytest.raises(UsageError, match="pickle"):
        collect_content(folder / "model.pt")
    with pytest.raises(MissingFile, match="no such file"):
        collect_content(folder / "gone.safetensors")
    (folder / "README.txt").write_text("x" * 20, encoding="utf-8")
    with pytest.raises(FormatError):
        collect_content(folder / "README.txt")


def test_a_broken_adapter_is_not_pushed(folder: Path) -> None:
    raw = bytearray((folder / "ink.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "ink.safetensors").write_bytes(raw)
    with pytest.raises(ChecksumError):
        collect_content(folder)


def test_the_card_is_read_as_it_is(folder: Path) -> None:
    (folder / "README.md").write_bytes("# Grüße\r\n".encode())
    assert collect_content(folder).readme == "# Grüße\r\n"
    (folder / "README.md").write_bytes(b"\xff")
    with pytest.raises(CardError, match="UTF-8"):
        collect_content(folder)
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="symbolic link"):
        collect_content(folder)
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    with pytest.raises(FileAccessError, match="folder"):
        collect_content(folder)


def test_beside_a_named_file_only_a_model_card_is_its_card(folder: Path) -> None:
    for text in (
        "---\nlicense: mit\n---\n",
        "words\n<!-- si-hub: generated, renewed by every push; write outside of it -->",
    ):
        (folder / "README.md").write_text(text, encoding="utf-8")
        assert collect_content(folder / "ink.safetensors").readme == text
    (folder / "README.md").write_text("# Another project\n", encoding="utf-8")
    found = collect_content(folder / "ink.safetensors")
    assert (found.readme, list(found.left_out)) == (None, ["README.md"])
    assert collect_content(folder).readme == "# Another project\n"


def test_a_file_that_changes_after_it_was_checked_is_noticed(folder: Path) -> None:
    found = collect_content(folder)
    found.weights.check_unchanged()
    os.utime(folder / "ink.safetensors", ns=(1, 1))
    with pytest.raises(FileAccessError, match="was changed"):
        found.weights.check_unchanged()
    (folder / "ink.safetensors").unlink()
    with pytest.raises(FileAccessError):
        found.weights.check_unchanged()


def test_the_file_that_downloads_are_counted_by_is_known_again(folder: Path) -> None:
    config = collect_content(folder).config
    assert isinstance(config.source, bytes)
    assert json.loads(config.source)["styleinject"] == {
        "weights": "styleinject.safetensors", "architecture": "sd15", "format_version": "1.0",
    }  # fmt: skip
    assert is_our_config(config.source)
    for raw in (b"", b"[]", b"{}", b'{"model_type": "clip"}', b"\xff", b"[" * 100_000):
        assert not is_our_config(raw)


@pytest.mark.parametrize("inside", [False, True])
def test_a_checkpoint_is_called_one_and_is_for_distilling(inside: bool, tmp_path: Path) -> None:
    file = tmp_path / "ink.safetensors"
    shutil.copy(INK, file)
    with pytest.raises(NotStyleInject) as raised:
        collect_content(tmp_path if inside else file)
    said = str(raised.value)
    assert "ink.safetensors is a full checkpoint, and no adapter. si_hub.distill.distill(BASE, TUNED) makes" in said
    assert "convert" not in said


def test_a_controlnet_is_called_one_and_a_lora_is_to_be_converted(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"controlnet_cond_embedding.conv_in.weight": np.zeros((4, 4), np.float32)}, file)
    with pytest.raises(NotStyleInject, match=r"x\.safetensors is a ControlNet, and no adapter\.$"):
        collect_content(file)
    with pytest.raises(NotStyleInject, match="Convert it first"):
        collect_content(KOHYA_LORA)
