"""Unfinished work: kept whole, found again, and thrown away where it no longer fits."""

from __future__ import annotations

import signal
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from si_hub.errors import FileAccessError
from si_hub.storage.tensors import Tensor
from si_hub.work.folder import Work, discard
from tests.killing import python
from tests.places import ROOT
from tests.systems import posix_alone

PLAN = {"rank": 4}


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work(tmp_path / "work")
    work.open(PLAN)
    return work


def keep(work: Work, name: str = "unet.conv_in") -> Path:
    work.save(name, {"up.weight": Tensor.from_torch(torch.arange(6.0).reshape(2, 3))}, {"error": 0.1 + 0.2})
    [file] = work.folder.glob("*.safetensors")
    return file


def test_what_was_kept_is_found_by_another_run(work: Work) -> None:
    keep(work)
    again = Work(work.folder)
    again.open(PLAN)
    entry = again.load("unet.conv_in")
    assert again.kept == 1
    assert entry is not None
    assert entry.facts == {"error": 0.1 + 0.2}
    assert torch.equal(entry.tensors["up.weight"].torch(), torch.arange(6.0).reshape(2, 3))
    assert again.load("unet.conv_out") is None


def test_another_plan_throws_the_work_away(work: Work) -> None:
    keep(work)
    again = Work(work.folder)
    again.open({"rank": 8})
    assert again.kept == 0
    assert again.load("unet.conv_in") is None


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:-4] + b"\0\0\0\1", lambda data: b""])
def test_damaged_work_is_done_again(work: Work, damage: object) -> None:
    file = keep(work)
    assert callable(damage)
    file.write_bytes(damage(file.read_bytes()))
    assert work.load("unet.conv_in") is None
    keep(work)
    assert work.load("unet.conv_in") is not None


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(FileAccessError, match="other things in it"):
        Work(tmp_path).open(PLAN)
    assert (tmp_path / "holiday.jpg").exists()


def test_a_folder_that_cannot_be_made_is_said_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for keyword, said in (("work", "work="), ("cache", "cache=FOLDER")):
        work = Work(tmp_path / "file" / "work", keyword)
        uses: list[Callable[[], object]] = [partial(work.open, PLAN), work.keep, work.hold().__enter__]
        for use in uses:
            with pytest.raises(FileAccessError, match=f"cannot be made: Not a directory. Name another with {said}\\.$"):
                use()


def test_what_another_run_has_thrown_away_already_is_gone(tmp_path: Path) -> None:
    discard(tmp_path / "gone")


def test_a_folder_is_one_run_s_at_a_time(work: Work) -> None:
    keep(work)
    with work.hold():
        with pytest.raises(FileAccessError, match="another run is at work in it"), Work(work.folder).hold():
            pass
        work.open(PLAN)
    with Work(work.folder).hold():
        assert work.load("unet.conv_in") is not None


@posix_alone
def test_the_lock_of_a_killed_run_is_gone_and_what_it_was_writing_is_swept(work: Work) -> None:
    keep(work)
    killed = f"""
from pathlib import Path
from si_hub.work.folder import Work
from tests.killing import kill_self
work = Work(Path({str(work.folder)!r}))
with work.hold():
    Path.replace = kill_self
    work.save("unet.conv_out", {{}}, {{}})
"""
    assert python("-c", killed, cwd=ROOT).wait() == -signal.SIGKILL
    assert len(list(work.folder.glob(".si-hub-*.tmp"))) == 1
    again = Work(work.folder)
    again.open(PLAN)
    assert list(work.folder.glob(".si-hub-*.tmp")), "another's, for all that this run can know"
    with again.hold():
        again.open(PLAN)
    assert sorted(path.suffix for path in work.folder.iterdir()) == [".json", ".safetensors"]
    assert again.load("unet.conv_in") is not None


def test_a_run_killed_before_its_first_part_is_no_stranger(tmp_path: Path) -> None:
    (tmp_path / ".si-hub-0123456789abcdef.tmp").touch()
    work = Work(tmp_path)
    with work.hold():
        work.open(PLAN)
        assert not list(tmp_path.glob("*.tmp"))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_held_folder_that_nothing_was_kept_in_is_gone(tmp_path: Path) -> None:
    with Work(tmp_path / "work").hold():
        pass
    assert not (tmp_path / "work").exists()


def test_clearing_leaves_nothing(work: Work) -> None:
    keep(work)
    work.clear()
    assert not work.folder.exists()


def test_a_folder_that_a_run_keeps_is_not_thrown_away(tmp_path: Path) -> None:
    work = Work(tmp_path / "survey")
    work.keep()
    work.open(PLAN)
    keep(work)
    discard(work.folder)
    assert work.load("unet.conv_in") is not None
    del work
    discard(tmp_path / "survey")
    assert not list(tmp_path.iterdir())


def test_parts_are_dropped_by_the_last_run_that_keeps_them(tmp_path: Path) -> None:
    first, second = Work(tmp_path / "survey"), Work(tmp_path / "survey")
    first.keep()
    second.keep()
    first.open(PLAN)
    keep(first)
    first.drop(["unet.conv_in"])
    assert second.load("unet.conv_in") is not None
    del first
    second.drop(["unet.conv_in"])
    assert second.load("unet.conv_in") is None
    discard(second.folder)
    assert second.folder.is_dir()


@posix_alone
def test_a_killed_run_keeps_nothing(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from si_hub.work.folder import Work"
    script += (
        "; work = Work(Path(sys.argv[1])); work.keep(); work.open({}); print('kept', flush=True); sys.stdin.read()"
    )
    child = python("-c", script, tmp_path / "survey")
    assert child.read_line() == "kept\n"
    discard(tmp_path / "survey")
    assert (tmp_path / "survey" / "plan.json").is_file()
    assert child.end(0) == -signal.SIGKILL
    discard(tmp_path / "survey")
    assert not list(tmp_path.iterdir())


def test_a_large_part_is_written_without_a_copy_of_it(work: Work) -> None:
    tensors = {name: Tensor.from_torch(torch.full((1 << 23,), value)) for name, value in (("a", 1.0), ("b", 2.0))}
    tracemalloc.start()
    try:
        work.save("large", tensors, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20, "each has twice as much"
    again = work.load("large")
    assert again is not None
    assert all(again.tensors[name].tobytes() == tensor.tobytes() for name, tensor in tensors.items())
