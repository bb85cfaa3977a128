"""The one adapter of a repository: which file it is, how few requests it costs, and what the cache answers alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from si_hub.errors import (
    FileAccessError,
    HubWarning,
    MissingFile,
    NetworkError,
    RateLimited,
    UsageError,
)
from si_hub.hub.pull import pull
from si_hub.hub.pull.cache import Cache
from si_hub.hub.pull.fetching import Fetched, fetch_adapter
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import OURS, STYLE
from tests.places import GOLDEN

OTHER = (GOLDEN / "one_branch.safetensors").read_bytes()


def asked(hub: LoopbackHub) -> list[str]:
    """The requests since the last call, shortened."""
    lines = [re.sub(r"/resolve/[0-9a-f]{40}|\?signature=.*? |/blob/[0-9a-f]+", " ", str(entry)) for entry in hub.log]
    hub.log.clear()
    return lines


def files(hub: LoopbackHub) -> list[str]:
    names = [entry.path.rpartition("/")[2] for entry in hub.log if "/resolve/" in entry.path]
    hub.log.clear()
    return sorted(names)


def test_of_a_repository_only_the_adapter_and_the_file_that_counts_are_fetched(style: LoopbackHub) -> None:
    found = fetch_adapter(STYLE)
    assert found.path.read_bytes() == OURS
    assert found == Fetched(found.path, True, f"{STYLE}@{style.repo(STYLE).head()}", "styleinject.safetensors")
    assert files(style) == ["config.json", "styleinject.safetensors"]


def test_the_file_that_counts_is_fetched_once_and_is_not_needed(style: LoopbackHub) -> None:
    fetch_adapter(STYLE)
    style.repo(STYLE).commit({"README.md": "new"})
    style.log.clear()
    fetch_adapter(STYLE)
    assert files(style) == []
    style.repo("user/plain").commit({"styleinject.safetensors": OTHER})
    assert fetch_adapter("user/plain").ours
    assert files(style) == ["styleinject.safetensors"]


def test_a_file_that_counts_of_ten_megabytes_is_left_alone(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"styleinject.safetensors": OURS, "config.json": b" " * 10_000_001})
    assert fetch_adapter(STYLE).ours
    assert files(client) == ["styleinject.safetensors"]


def test_cached_and_pinned_costs_no_request_by_branch_one(style: LoopbackHub) -> None:
    first = fetch_adapter(STYLE)
    style.log.clear()
    assert fetch_adapter(first.lock) == first
    assert fetch_adapter(STYLE, revision=first.lock.partition("@")[2]) == first
    assert asked(style) == []
    assert fetch_adapter(STYLE) == fetch_adapter(STYLE, revision="main") == first
    assert asked(style) == ["hub GET /api/models/user/style?blobs=true -> 200",
                            "hub GET /api/models/user/style/revision/main?blobs=true -> 200"]  # fmt: skip


def test_a_pin_on_what_another_tool_fetched_costs_one_listing_the_first_time(style: LoopbackHub) -> None:
    path = Path(hf_hub_download(STYLE, "styleinject.safetensors"))
    lock = f"{STYLE}@{path.parent.name}"
    style.log.clear()
    assert fetch_adapter(lock).path == path
    assert len(style.log) == 1
    assert fetch_adapter(lock).path == path
    assert len(style.log) == 1


def test_a_pinned_file_that_changed_in_the_cache_is_fetched_anew(style: LoopbackHub) -> None:
    first = fetch_adapter(STYLE)
    first.path.resolve().write_bytes(bytes(len(OURS)))
    style.log.clear()
    assert fetch_adapter(first.lock).path.read_bytes() == OURS
    assert "styleinject.safetensors" in files(style)


def test_what_is_in_the_way_in_the_cache_is_said(style: LoopbackHub) -> None:
    found = fetch_adapter(STYLE)
    found.path.unlink()
    found.path.mkdir()
    for reference in (STYLE, found.lock):
        with pytest.raises(FileAccessError, match=r"styleinject\.safetensors: cannot be written: "):
            fetch_adapter(reference)
        with pytest.raises(FileAccessError, match="cannot be written"):
            pull(reference)


def test_the_branch_that_moved_is_noticed(style: LoopbackHub) -> None:
    before = fetch_adapter(STYLE)
    style.repo(STYLE).commit({"styleinject.safetensors": OTHER})
    after = fetch_adapter(STYLE)
    assert (before.path.read_bytes(), after.path.read_bytes()) == (OURS, OTHER)
    assert fetch_adapter(before.lock) == before


# Which file.


# Without the Hub.


@pytest.mark.parametrize("fault", [faults.status(503), faults.dropped(), faults.rate_limit(3600)])
def test_where_the_hub_gives_no_answer_the_cache_does_and_says_so(fault: faults.Fault, style: LoopbackHub) -> None:
    first = fetch_adapter(STYLE)
    style.fault(fault, times=None)
    with pytest.warns(HubWarning, match=rf"user/style: .*; the cache has it as of commit {first.lock[-40:]}"):
        assert fetch_adapter(STYLE) == first
    with pytest.raises((NetworkError, RateLimited)):
        fetch_adapter(STYLE, force_download=True)
    with pytest.raises((NetworkError, RateLimited)):
        fetch_adapter(STYLE, revision="dev")


def test_the_cache_answers_soon(style: LoopbackHub, waits: list[float]) -> None:
    fetch_adapter(STYLE)
    style.fault(faults.status(503), times=None)
    with pytest.warns(HubWarning):
        fetch_adapter(STYLE)
    assert sum(waits) < 2


def test_a_hub_that_says_no_is_believed(style: LoopbackHub) -> None:
    fetch_adapter(STYLE)
    style.repo(STYLE).delete()
    with pytest.raises(MissingFile, match="no such repository"):
        fetch_adapter(STYLE)


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_offline_nobody_is_asked(way: str, style: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch_adapter(STYLE)
    style.log.clear()
    options: dict[str, Any] = {"local_files_only": True} if way == "argument" else {}
    if way == "variable":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch_adapter(STYLE, **options) == fetch_adapter(first.lock, **options) == first
    with pytest.raises(MissingFile, match=r"user/other: is not in the cache.*si_hub\.pull\('user/other'\)"):
        fetch_adapter("user/other", **options)
    with pytest.raises(UsageError, match="force_download"):
        fetch_adapter(STYLE, force_download=True, **options)
    assert len(style.log) == 0


def test_offline_the_only_adapter_that_was_fetched_is_the_one(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"b.safetensors": OTHER, "a.safetensors": OURS})
    fetch_adapter(STYLE, weight_name="b.safetensors")
    assert fetch_adapter(STYLE, local_files_only=True).name == "b.safetensors"
    with pytest.raises(UsageError, match="several adapters"):
        fetch_adapter(f"{STYLE}@{client.repo(STYLE).head()}")


def test_a_pull_serves_a_load(style: LoopbackHub) -> None:
    lock = pull(STYLE).lock
    style.log.clear()
    assert fetch_adapter(lock).ours
    assert fetch_adapter(STYLE, local_files_only=True).ours
    assert len(style.log) == 0
    assert Cache(STYLE).known_listing(lock[-40:]) is not None
