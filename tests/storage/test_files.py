from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from si_hub import errors
from si_hub.storage.files import atomic_file, is_part
from tests.systems import IS_ROOT, posix_alone


def write(target: Path, content: bytes, overwrite: bool = False, then: Callable[[], object] = lambda: None) -> None:
    """Write ``content`` through `atomic_file`, and do something else before the block ends."""
    with atomic_file(target, overwrite) as file:
        file.write(content)
        then()


def raising(error: BaseException) -> Callable[[], object]:
    def throw() -> None:
        raise error

    return throw


def test_the_file_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with atomic_file(target, overwrite=False) as file:
        file.write(b"whole")
        assert not target.exists()
        (temporary,) = tmp_path.iterdir()
        assert re.fullmatch(r"\.si-hub-[0-9a-f]{16}\.tmp", temporary.name)
    assert target.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_any_exception_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error):
        write(tmp_path / "a", b"half", then=raising(error()))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_overwriting_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    ran = False
    with pytest.raises(errors.FileAccessError, match="overwrite=True"), atomic_file(target, overwrite=False):
        ran = True
    assert not ran, "the refusal comes before the work"
    assert target.read_bytes() == b"old"
    with atomic_file(target, overwrite=True) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_an_exception_while_overwriting_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write(target, b"new", overwrite=True, then=raising(KeyboardInterrupt()))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(errors.FileAccessError, match="exists already"):
        write(target, b"mine", then=lambda: target.write_bytes(b"theirs"))
    assert target.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links_works_and_still_protects_files(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "a"
    with atomic_file(target, overwrite=False) as file:
        file.write(b"first")
    assert target.read_bytes() == b"first"
    target.unlink()
    with pytest.raises(errors.FileAccessError, match="exists already"), atomic_file(target, overwrite=False):
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_a_symbolic_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"real")
    link.symlink_to(real)
    with pytest.raises(errors.FileAccessError, match="exists"), atomic_file(link, overwrite=False):
        pass
    with atomic_file(link, overwrite=True) as file:
        file.write(b"new")
    assert (real.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"real", b"new", False)


def test_a_folder_in_the_way_is_an_access_error(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(errors.FileAccessError, match="is a folder"), atomic_file(tmp_path, overwrite):
            pass


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingFile, match="nowhere"), atomic_file(tmp_path / "nowhere" / "a", overwrite=False):
        pass


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_file_can_have_is_an_access_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.FileAccessError), atomic_file(tmp_path / name, overwrite=False) as file:
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_names_may_be_works(tmp_path: Path) -> None:
    with atomic_file(tmp_path / ("x" * 255), overwrite=False) as file:
        file.write(b"x")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"x"


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_access_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(errors.FileAccessError, match="Permission denied"), atomic_file(tmp_path / "a", overwrite=False):
        pass
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(("call", "number"), [("open", errno.EACCES), ("fsync", errno.EIO), ("replace", errno.EROFS)])
def test_a_refusing_operating_system_is_an_access_error_and_leaves_nothing(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    expected = pytest.raises(errors.FileAccessError, match=os.strerror(number))
    with expected, atomic_file(tmp_path / "a", overwrite=True) as file:
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_access_error_that_names_the_file(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(errors.FileAccessError, match="No space left") as caught:
        write(tmp_path / "a", b"half", then=raising(full))
    assert caught.value.file == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_what_the_block_does_with_other_files_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / "a", overwrite=False):
        (tmp_path / "other").read_bytes()
    assert not isinstance(caught.value, errors.SiHubError)
    with pytest.raises(errors.TruncatedFile), atomic_file(tmp_path / "a", overwrite=False):
        raise errors.TruncatedFile("early")
    assert list(tmp_path.iterdir()) == []


@posix_alone
def test_the_umask_decides_about_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a", overwrite=False):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@posix_alone
def test_the_data_is_synced_before_the_name_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def noted_fsync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_link(source: Path, target: Path) -> None:
        events.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "link", noted_link)
    with atomic_file(tmp_path / "a", overwrite=False) as file:
        file.write(b"x")
    assert events == ["file", "name", "folder"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("a", True), ("x/../a", True), (".", True), ("x", False), ("none", False), ("x" * 300, False), ("\0", False)],
)
def test_what_a_file_is_part_of(given: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "x").mkdir()
    assert is_part(tmp_path / "a", tmp_path / given) is expected


def test_a_file_that_is_not_there_is_part_of_itself_alone(tmp_path: Path) -> None:
    assert is_part(tmp_path / "a", tmp_path / "a")
    assert not is_part(tmp_path / "a", tmp_path)
