"""What only some systems have, and its twin for the others, do the same."""

from __future__ import annotations

import ast
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import si_hub
from si_hub.storage import system

PACKAGE = Path(si_hub.__file__).parent
#: What of ``os`` Windows does not have, as its documentation says.
POSIX_ALONE = {
    "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "WNOHANG", "chown", "fchmod", "fchown",
    "fdatasync", "fork", "forkpty", "geteuid", "getgid", "getuid", "killpg", "lockf", "mkfifo", "mknod", "nice",
    "posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "preadv", "pwrite", "pwritev", "readv", "sendfile",
    "setsid", "statvfs", "sync", "uname", "wait", "wait4", "writev",
}  # fmt: skip
MODULES_OF_POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios"}


def names_of_posix(file: Path) -> set[str]:
    """What a module uses of POSIX alone: attributes and texts of ``os``, and modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found |= {node.attr} & POSIX_ALONE
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names} & POSIX_ALONE if node.module == "os" else set()
            found |= {node.module or ""} & MODULES_OF_POSIX
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES_OF_POSIX
    return found


def test_no_other_module_names_what_posix_alone_has() -> None:
    used = {file.relative_to(PACKAGE).as_posix(): names_of_posix(file) for file in PACKAGE.rglob("*.py")}
    homes = {name for name, found in used.items() if found}
    assert homes == {"storage/system.py"}
    assert used["storage/system.py"] >= {"O_NONBLOCK", "preadv", "pread", "pwrite", "posix_fallocate"}


@pytest.fixture
def descriptor(tmp_path: Path) -> int:
    (tmp_path / "digits").write_bytes(b"0123456789")
    return os.open(tmp_path / "digits", os.O_RDWR)


@pytest.mark.parametrize("read", [system.read_at, system._pick_after_seeking])
def test_bytes_are_read_from_a_place_up_to_the_end(read: Callable[[int, int, int], bytes], descriptor: int) -> None:
    assert [read(descriptor, 4, at) for at in (0, 3, 8, 10, 99)] == [b"0123", b"3456", b"89", b"", b""]


@pytest.mark.parametrize("read", [system.read_into, system._read_and_copy])
def test_a_room_is_filled_as_far_as_the_file_goes(read: Callable[[int, memoryview, int], int], descriptor: int) -> None:
    room = bytearray(b"....")
    assert read(descriptor, memoryview(room), 5) == 4
    assert room == b"5678"
    assert read(descriptor, memoryview(room), 8) == 2
    assert room == b"8978"
    assert read(descriptor, memoryview(room), 10) == 0


@pytest.mark.parametrize("write", ["_write_some", "_write_after_seeking"])
def test_all_is_written_from_a_place_on(
    write: str, descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = getattr(system, write)
    monkeypatch.setattr(system, "_write_some", lambda file, data, at: some(file, data[:2], at))
    system.write_at(descriptor, memoryview(b"abcde"), 7)
    system.write_at(descriptor, memoryview(b"XY"), 0)
    assert (tmp_path / "digits").read_bytes() == b"XY23456abcde"


def test_threads_that_must_seek_do_not_read_one_another_s_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads and one descriptor: byte ``at`` of the file says its own place."""
    (tmp_path / "places").write_bytes(bytes(range(256)) * 64)
    shared = os.open(tmp_path / "places", os.O_RDONLY)
    wrong: list[int] = []

    def read_many(start: int) -> None:
        places = range(start, start + 4000)
        wrong.extend(at for at in places if system._pick_after_seeking(shared, 1, at % 16384) != bytes([at % 256]))

    threads = [threading.Thread(target=read_many, args=(977 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(shared)
    assert wrong == []


@pytest.mark.parametrize("open_file", [system.open_file, system._open_looked_at])
def test_a_file_is_opened_and_a_missing_one_is_missing(open_file: Callable[[Path], int], tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"\r\n\x1a")
    opened = open_file(tmp_path / "there")
    assert os.read(opened, 9) == b"\r\n\x1a"
    os.close(opened)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "gone")


def test_who_cannot_open_at_once_looks_first(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        system._open_looked_at(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="Invalid argument"):
            system._open_looked_at(tmp_path / "pipe")


def test_a_new_file_is_new(tmp_path: Path) -> None:
    os.close(system.create_file(tmp_path / "new"))
    with pytest.raises(FileExistsError):
        system.create_file(tmp_path / "new")


def test_a_second_name_is_given_once_and_a_system_without_links_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").write_bytes(b"1")
    assert system.link_file(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == b"1"
    with pytest.raises(FileExistsError):
        system.link_file(tmp_path / "one", tmp_path / "two")
    monkeypatch.delattr(os, "link")
    assert not system.link_file(tmp_path / "one", tmp_path / "three")


@pytest.mark.parametrize(("refused", "kept"), [((), True), (("symlink",), True), (("symlink", "link"), False)])
def test_a_name_is_a_link_a_second_name_or_the_file_itself(
    refused: tuple[str, ...], kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    for call in refused:
        monkeypatch.setattr(os, call, refuse)
    (tmp_path / "blob").write_bytes(b"1")
    system.link_or_move(tmp_path / "blob", tmp_path / "name", tmp_path / "temporary")
    assert (tmp_path / "name").read_bytes() == b"1"
    assert (tmp_path / "blob").exists() is kept
    assert not (tmp_path / "temporary").exists()


def test_a_system_that_knows_no_advice_is_not_asked(
    descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("posix_fadvise", "posix_fallocate", "O_DIRECTORY"):
        monkeypatch.delattr(os, name, raising=False)
    system.reserve_space(descriptor, 100)
    system.drop_cached(descriptor, 0, 10)
    system.sync_folder(tmp_path)
    assert (tmp_path / "digits").read_bytes() == b"0123456789"


def test_large_blocks_go_back_to_the_system_where_it_is_glibc_and_nothing_happens_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    class Library:
        def mallopt(self, setting: int, value: int) -> int:
            asked.append((setting, value))
            return 1

    monkeypatch.setattr("ctypes.CDLL", lambda _: Library())
    system.return_large_memory()
    assert asked == [(-3, 4 << 20)]
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    system.return_large_memory()

    def refuse(name: object) -> object:
        raise TypeError(f"no library {name}")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    system.return_large_memory()
    assert len(asked) == 1
