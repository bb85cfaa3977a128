"""Processes that work together: how each launcher says who is who, and that whoever starts the work, it is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils.other import get_free_port

from si_hub.errors import UsageError
from si_hub.work.processes import Processes, choose_device, is_launched, is_main, processes
from tests.killing import python
from tests.miniature import BASE, NEON
from tests.places import ROOT

#: What launchers put into the environment of the second process of two.
LAUNCHERS = {
    "torchrun": {"WORLD_SIZE": "2", "RANK": "1"},
    "Intel MPI": {"PMI_SIZE": "2", "PMI_RANK": "1"},
    "Open MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
    "MVAPICH": {"MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1"},
    "accelerate launch in a Slurm step of one task": {
        "WORLD_SIZE": "2", "RANK": "1", "PMI_SIZE": "1", "PMI_RANK": "0",
    },
}  # fmt: skip
#: What alone tells a process that nothing was launched.
ALONE: list[dict[str, str]] = [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"PMI_SIZE": "1", "PMI_RANK": "0"}, {"RANK": "3"}]


def told(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    for name in {name for launcher in LAUNCHERS.values() for name in launcher}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_second_of_two_processes_knows_that_it_is_whoever_launched_it(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, LAUNCHERS[launcher])
    assert is_launched()
    assert not is_main()


@pytest.mark.parametrize("environment", ALONE)
def test_a_process_alone_is_the_main_one(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, environment)
    assert not is_launched()
    assert is_main()
    assert processes().count == 1


def test_jobs_are_shared_once_each_and_evenly_by_cost() -> None:
    costs = [7.0, 1.0, 1.0, 5.0, 1.0, 1.0, 2.0]
    shares = [Processes(k, 3, torch.device("cpu")).share(range(7), costs.__getitem__) for k in range(3)]
    assert sorted(job for share in shares for job in share) == list(range(7))
    assert all(share == sorted(share) for share in shares)
    assert [sum(costs[job] for job in share) for share in shares] == [7.0, 6.0, 5.0]


WHO = """
from si_hub.work.processes import processes
crew = processes()
crew.wait()
print(crew.index, crew.count, crew.main)
"""


@pytest.mark.slow
def test_processes_that_mpi_started_find_each_other() -> None:
    """As ``accelerate launch --cpu --num_processes 2 --mpirun_hostfile hosts`` has mpirun start them."""
    shared = {"PMI_SIZE": "2", "MPI_LOCALNRANKS": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port())}
    children = [
        python(
            "-c", WHO, cwd=ROOT,
            env={**os.environ, **shared, "ACCELERATE_USE_CPU": "true", "PMI_RANK": rank, "MPI_LOCALRANKID": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    assert [child.wait() for child in children] == [0, 0]
    assert [child.out().split() for child in children] == [
        ["0", "2", "True"],
        ["1", "2", "False"],
    ]


@pytest.mark.slow
def test_launched_by_accelerate_on_the_cpu_the_adapter_is_the_same(tmp_path: Path) -> None:
    """Without an MPI accelerate starts one process of two, and that one does all of the work."""
    work = ["-m", "si_hub.cli", "distill", str(BASE), str(NEON)]
    work += ["--method", "svd", "--rank", "2", "-o"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    for name, start in (("plain", []), ("launched", launch)):
        command = [sys.executable, *start, *work, str(tmp_path / name)]
        subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    assert (tmp_path / "launched").read_bytes() == (tmp_path / "plain").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "launched"}


@pytest.mark.parametrize(
    ("present", "chosen"), [(None, "cpu"), ("cuda", "cuda"), ("mps", "mps"), ("xpu", "xpu"), ("hpu", "cpu")]
)
def test_an_accelerator_that_is_known_is_chosen_where_it_is_present(
    present: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_accelerator(present, 2, monkeypatch)
    assert choose_device() == torch.device(chosen)
    assert choose_device("cpu") == torch.device("cpu")
    if chosen != "cpu":
        assert choose_device(f"{chosen}:1") == torch.device(chosen, 1)


def has_accelerator(name: str | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch find another accelerator than this machine's."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: name is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: name and torch.device(name))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.mark.parametrize("said", ["mps", "cuda:2", "gpu", "cuda:one", "xpu", "cpu:1"])
def test_a_device_that_is_not_there_is_a_usage_error_that_says_which_are(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_accelerator("cuda", 2, monkeypatch)
    with pytest.raises(UsageError, match=r"device: .* \(expected cpu, cuda, found "):
        choose_device(said)


def test_closed_forms_are_computed_where_float64_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda, mps, xpu = (torch.device(name) for name in ("cpu", "cuda", "mps", "xpu"))
    for known, solver in ((True, xpu), (False, cpu)):
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _, known=known: SimpleNamespace(has_fp64=known))
        assert Processes(0, 1, xpu).solver == solver
    assert Processes(0, 1, cuda).solver == cuda
    assert Processes(0, 1, mps).solver == cpu
