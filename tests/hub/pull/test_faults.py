"""Whatever goes wrong at any request of a pull: a file is there whole or not at all, and the next pull succeeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from si_hub.errors import SiHubError
from si_hub.hub.pull import pull
from si_hub.hub.pull.fetching import fetch_adapter
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import EXPECTED, FILES, STYLE, UNSAFE, tree

KINDS = {
    **faults.KINDS,
    "401": faults.status(401),
    "403": faults.status(403),
    "404": faults.status(404, error="EntryNotFound"),
    "416": faults.status(416),
    "redirect": faults.redirect("http://127.0.0.1:9/elsewhere"),
    "empty": faults.body(b""),
    "more": faults.body(bytes(3_000_000)),
    "no JSON": faults.body(b"<html>"),
}

Fetch = Callable[[Path], Path]


def into_cache(folder: Path) -> Path:
    return pull(STYLE, cache_dir=folder).folder


def into_folder(folder: Path) -> Path:
    return pull(STYLE, local_dir=folder / "out", cache_dir=folder / "cache").folder


def for_loading(folder: Path) -> Path:
    return fetch_adapter(STYLE, cache_dir=folder).path.parent


WAYS: dict[str, Fetch] = {"cache": into_cache, "folder": into_folder, "load": for_loading}


def check_whole(folder: Path) -> None:
    """No file of another content than the repository's is visible where a user would find it; nothing is left over."""
    shown = [path for path in folder.rglob("*") if path.is_file() and "si-hub" not in path.parts]
    for path in shown:
        if "refs" not in path.parts:
            assert path.read_bytes() in EXPECTED.values(), path
    assert not list(folder.rglob(".si-hub-*"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_every_single_request(
    kind: str, way: str, client: LoopbackHub, waits: list[float], tmp_path: Path
) -> None:
    client.repo(STYLE).commit({**FILES, **UNSAFE})
    fetch = WAYS[way]
    fetch(tmp_path / "undisturbed")
    requests = len(client.log)
    assert requests >= 4
    for number in range(requests):
        folder = tmp_path / f"{number}"
        planned = client.fault(KINDS[kind], skip=number)
        failed: list[SiHubError] = []
        try:
            fetch(folder)
        except SiHubError as error:
            failed.append(error)
        for one in failed:
            assert (one.__cause__, one.__context__, str(one).count("\n")) == (None, None, 0)
        assert planned.met == 1
        client.clear_faults()
        check_whole(folder)
        found = tree(fetch(folder))
        assert found == {name: EXPECTED[name] for name in found}
        assert "styleinject.safetensors" in found
        check_whole(folder)


@pytest.mark.parametrize("kind", faults.KINDS)
def test_one_fault_of_a_kind_that_passes_does_not_fail_the_pull(
    kind: str, client: LoopbackHub, waits: list[float], tmp_path: Path
) -> None:
    """But a listing that arrives altered: it may name another commit, or other hashes."""
    client.repo(STYLE).commit(FILES)
    into_cache(tmp_path / "undisturbed")
    for number in range(1 if kind == "corrupt" else 0, len(client.log)):
        client.fault(faults.KINDS[kind], skip=number)
        assert tree(into_cache(tmp_path / f"{number}")) == EXPECTED
        client.clear_faults()
