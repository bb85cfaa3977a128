"""A loopback Hub, and clients that know no other."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.hub.loopback import LoopbackHub

RunClient = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    """A Hub with no repository."""
    from tests.hub.loopback import LoopbackHub

    with LoopbackHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The client's ``HF_HOME``: its cache is ``home / "hub"``, its token file ``home / "token"``."""
    return tmp_path / "home"


@pytest.fixture
def client(hub: LoopbackHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """The Hub that the huggingface_hub of this very process speaks to, with an empty cache and no token."""
    from huggingface_hub import close_session

    from tests.hub.loopback.environment import turn_to

    turn_to(hub.url, home, monkeypatch)
    close_session()
    yield hub
    close_session()


@pytest.fixture
def style(client: LoopbackHub, waits: list[float]) -> LoopbackHub:
    """user/style: an adapter, a card, a picture, and what is never fetched; tagged v1."""
    from tests.hub.pull.world import FILES, STYLE, UNSAFE

    client.repo(STYLE).commit({**FILES, **UNSAFE})
    client.repo(STYLE).tag("v1")
    return client


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody in this process sleeps: the seconds that were asked for, in their order."""
    asked: list[float] = []

    class Impatient(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            asked.append(timeout or 0.0)
            return self.is_set()

    monkeypatch.setattr("time.sleep", asked.append)
    monkeypatch.setattr("si_hub.hub.client.threading", SimpleNamespace(Event=Impatient))
    return asked


@pytest.fixture
def run_client(hub: LoopbackHub, home: Path, tmp_path: Path) -> RunClient:
    """``run_client("-m", "si_hub.cli", "push", …, token="writer")``: Python in a process of its own.

    It runs in ``cwd`` (``tmp_path``) and fails the test where its exit code is not ``code`` (None: any).
    """

    def run(
        *arguments: str | Path, token: str | None = None, cwd: Path = tmp_path, code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, env=hub.environment(home, token), cwd=cwd, capture_output=True, text=True)
        assert code is None or done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
        return done

    return run
