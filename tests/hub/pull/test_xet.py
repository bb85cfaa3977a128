"""Files that the Hub offers by xet. No xet server can be had here: what is seen is the way there, and the way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub.errors import ChecksumError
from si_hub.hub.pull import pull, transfer
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import EXPECTED, FILES, OURS, STYLE, tree

OFFER = {"X_Xet_Hash": "0" * 64}
#: Where huggingface_hub asks for access to xet: an address of the Hub that says no.
ROUTE = {"X_Xet_Refresh_Route": "{}/api/models/user/style/xet-read-token/main"}


@pytest.fixture
def style(client: LoopbackHub, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    client.repo(STYLE).commit(FILES)
    monkeypatch.setattr(transfer, "XET_FROM", 5000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    return client


def offer(hub: LoopbackHub, **more: str) -> None:
    headers = {name: value.format(hub.url) for name, value in (OFFER | more).items()}
    hub.fault(faults.headers(**headers), on=r"/resolve/.*\.safetensors", times=None)


def heads(hub: LoopbackHub) -> list[str]:
    return [entry.path.rpartition("/")[2] for entry in hub.log if entry.method == "HEAD"]


def test_a_large_file_that_is_offered_by_xet_is_left_to_huggingface_hub(style: LoopbackHub, home: Path) -> None:
    """Without a route to xet, huggingface_hub takes plain HTTP; the file is verified and placed all the same."""
    offer(style)
    seen: list[tuple[int, int]] = []
    done = pull(STYLE, progress=lambda count, total: seen.append((count, total)))
    assert tree(done.folder) == EXPECTED
    assert heads(style) == ["styleinject.safetensors"]
    assert seen[-1] == (done.size, done.size)
    assert not list(home.rglob("*.tmp"))
    assert not list(home.rglob(".cache"))


def test_where_xet_fails_plain_http_does_it(style: LoopbackHub) -> None:
    offer(style, **ROUTE)
    seen: list[tuple[int, int]] = []
    done = pull(STYLE, progress=lambda count, total: seen.append((count, total)))
    assert tree(done.folder) == EXPECTED
    assert style.log.matching("xet-read-token")
    assert seen[-1] == (done.size, done.size)


def test_bytes_that_came_another_way_are_verified_too(style: LoopbackHub, tmp_path: Path) -> None:
    offer(style)
    style.fault(faults.corrupt(), on="GET /blob/", times=None)
    with pytest.raises(ChecksumError):
        pull(STYLE, local_dir=tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_small_files_and_those_who_switched_xet_off_take_plain_http(
    style: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(style)
    monkeypatch.setattr(transfer, "XET_FROM", len(OURS) + 1)
    pull(STYLE)
    monkeypatch.setattr(transfer, "XET_FROM", 5000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    pull(STYLE, force_download=True)
    assert heads(style) == []
