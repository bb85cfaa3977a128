"""What holds for all tests, on any machine and however they are started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# `tests`, `examples` and `benchmarks` are no installed packages, and the tests may be started in another folder. At the
# end: where the built wheel is tested, its own package comes first.
ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.append(ROOT)

# Nothing is kept of conversions in whoever runs the tests' home, and none is taken from there.
os.environ["SI_HUB_CONVERTED"] = "off"

# No property is judged by how fast a loaded machine draws its examples.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Where the tests run in the background SIGINT is ignored, and the processes they start would ignore it too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., str]:
    """``two_processes("-m", "module", ...)``: stdout of a Python command as two processes that work together.

    With ``--cpu`` in place of ``--multi_gpu``, accelerate starts one process, or leaves it to MPI.
    """
    environment = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    start = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    start += ["--main_process_port", "0"]

    def run(*command: str) -> str:
        done = subprocess.run(
            [*start, *command], capture_output=True, text=True, check=False, timeout=900, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
