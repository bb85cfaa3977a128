"""Processes killed while they write: what they leave goes with the next write, and what somebody writes stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest

from si_hub.hub.pull.transfer import make_stage
from si_hub.storage.files import atomic_file
from si_hub.storage.leftovers import OLD
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import write_safetensors
from tests.systems import posix_alone

LONG_AGO = time.time() - OLD - 60
WRITING = (
    "import sys, time; from si_hub.storage.files import atomic_file\n"
    "with atomic_file(sys.argv[1], False) as file:\n"
    "    file.write(b'half'); file.flush(); print('begun', flush=True); time.sleep(60)\n"
)


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing ``path``."""
    process = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def temporaries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.startswith(".si-hub-"))


def make_old(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (LONG_AGO, LONG_AGO))


def write_one(folder: Path) -> None:
    tensors = {"a": Tensor.from_numpy(numpy.ones(2, numpy.float32))}
    write_safetensors(folder / "next.safetensors", tensors, {}, overwrite=True)


@posix_alone
def test_a_killed_writers_file_goes_once_it_is_old(tmp_path: Path) -> None:
    for _ in range(3):
        with writer(tmp_path / "x.safetensors") as process:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert len(temporaries(tmp_path)) == 3
    write_one(tmp_path)
    assert len(temporaries(tmp_path)) == 3, "young ones may be anybody's"
    make_old(*temporaries(tmp_path))
    write_one(tmp_path)
    assert temporaries(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["next.safetensors"]


@posix_alone
def test_what_a_living_process_writes_is_never_taken_from_it(tmp_path: Path) -> None:
    with writer(tmp_path / "x.safetensors"):
        make_old(*temporaries(tmp_path))
        write_one(tmp_path)
        assert len(temporaries(tmp_path)) == 1
    make_old(*temporaries(tmp_path))
    write_one(tmp_path)
    assert temporaries(tmp_path) == []


def test_what_this_process_writes_itself_stays(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "x", False) as file:
        file.write(b"whole")
        file.flush()
        make_old(*temporaries(tmp_path))
        write_one(tmp_path)
    assert (tmp_path / "x").read_bytes() == b"whole"


def test_a_stage_goes_when_nothing_in_it_was_written_for_a_day(tmp_path: Path) -> None:
    old, going_on = tmp_path / ".si-hub-abcdefgh.tmp", tmp_path / ".si-hub-12345678.tmp"
    for stage in (old, going_on):
        (stage / "inner").mkdir(parents=True)
        (stage / "inner" / "0").write_bytes(b"half")
        make_old(stage / "inner" / "0", stage / "inner", stage)
    os.utime(going_on / "inner" / "0")
    with make_stage(tmp_path) as stage:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([going_on.name, stage.name])
    assert (going_on / "inner" / "0").read_bytes() == b"half"


@pytest.mark.parametrize("name", [".si-hub-notes.tmp", ".si-hub-0123456789abcdef.json", "si-hub-0123456789abcdef.tmp"])
def test_other_names_are_other_peoples_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"kept")
    make_old(tmp_path / name)
    write_one(tmp_path)
    assert (tmp_path / name).read_bytes() == b"kept"


@posix_alone
def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    folder, precious = tmp_path / "out", tmp_path / "precious"
    folder.mkdir()
    precious.mkdir()
    (precious / "file").write_bytes(b"kept")
    link = folder / ".si-hub-0123456789abcdef.tmp"
    link.symlink_to(precious)
    os.utime(link, (LONG_AGO, LONG_AGO), follow_symlinks=False)
    write_one(folder)
    assert temporaries(folder) == []
    assert (precious / "file").read_bytes() == b"kept"
