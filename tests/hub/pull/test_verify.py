"""Bytes against a listing: by git's own hash and by SHA-256, and by their number first of all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from si_hub.errors import MissingFile
from si_hub.hub.listing import Algorithm, ListedFile
from si_hub.hub.pull.verify import hash_file, is_as_listed, mismatch


@pytest.mark.parametrize("data", [b"", b"hello\n", bytes(range(256)) * 5000])
@pytest.mark.parametrize(("algorithm", "command"), [("git-sha1", "git hash-object"), ("sha256", "sha256sum")])
def test_a_hash_is_the_one_that_git_and_coreutils_compute(
    data: bytes, algorithm: Algorithm, command: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(data)
    done = subprocess.run([*command.split(), "file"], cwd=tmp_path, capture_output=True, text=True, check=True)
    digest = done.stdout.split()[0]
    assert hash_file(tmp_path / "file", algorithm) == digest
    assert is_as_listed(tmp_path / "file", ListedFile("file", len(data), algorithm, digest))


def test_another_size_another_byte_and_no_file_are_not_what_is_listed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"adapter")
    entry = ListedFile("file", 7, "sha256", hash_file(file, "sha256"))
    assert is_as_listed(file, entry)
    file.write_bytes(b"adaptor")
    assert not is_as_listed(file, entry)
    file.write_bytes(b"adapter and more")
    assert not is_as_listed(file, entry)
    assert not is_as_listed(tmp_path / "nothing", entry)
    assert not is_as_listed(tmp_path, entry)


def test_a_file_without_a_hash_is_known_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"adapter")
    assert is_as_listed(tmp_path / "file", ListedFile("file", 7, None, None))
    assert not is_as_listed(tmp_path / "file", ListedFile("file", 8, None, None))


def test_a_mismatch_names_repository_file_and_what_was_promised() -> None:
    error = mismatch(ListedFile("a.safetensors", 7, "sha256", "f" * 64), "user/style")
    assert error.exit_code == 6
    assert str(error).startswith("user/style: a.safetensors: the bytes that arrive are not those")
    assert f"sha256 {'f' * 64}, 7 bytes" in str(error)


def test_a_file_that_goes_away_is_missing(tmp_path: Path) -> None:
    with pytest.raises((MissingFile, FileNotFoundError)):
        hash_file(tmp_path / "nothing", "sha256")
