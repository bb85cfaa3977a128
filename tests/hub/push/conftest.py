"""A folder with an adapter, and pushing it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from si_hub.hub.push.pushing import push
from si_hub.hub.push.result import Pushed
from tests.places import GOLDEN

if TYPE_CHECKING:
    from tests.hub.loopback import LoopbackHub


PNG = b"\x89PNG\r\n\x1a\n and so on"


Push = Callable[..., Pushed]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One adapter, ``ink.safetensors``, and a picture."""
    place = tmp_path / "ink"
    (place / "samples").mkdir(parents=True)
    shutil.copy(GOLDEN / "one_branch.safetensors", place / "ink.safetensors")
    (place / "samples" / "1.png").write_bytes(PNG)
    return place


@pytest.fixture
def send(client: LoopbackHub, folder: Path, waits: list[float]) -> Push:
    """``push(folder, …)`` as the writer; the adapter's file is what it was."""

    def run(repo_id: str | None = None, *, token: str = "writer", path: Path = folder, **options: Any) -> Pushed:
        before = (folder / "ink.safetensors").read_bytes()
        try:
            return push(path, repo_id, token=client.token(token), bars=False, **options)
        finally:
            assert (folder / "ink.safetensors").read_bytes() == before

    return run
