"""A Hub, or whoever stands between, that answers with more than anybody holds, for longer than anybody waits."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from si_hub.errors import BadListing, NetworkError
from si_hub.hub.limits import ANSWER
from si_hub.hub.pull import pull
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.loopback.messages import Answer
from tests.hub.pull.world import EXPECTED, STYLE, edit_listing

WEIGHTS = "styleinject.safetensors"


@dataclass
class Drip:
    """A body that comes in small pieces, each a moment after the one before."""

    body: bytes
    pieces: int = 40

    def __len__(self) -> int:
        return len(self.body)

    def chunks(self) -> Iterator[bytes]:
        size = -(-len(self.body) // self.pieces)
        for start in range(0, len(self.body), size):
            threading.Event().wait(0.01)  # time.sleep is taken from everybody by the fixture ``waits``
            yield self.body[start : start + size]


def change(edit: Any) -> faults.Fault:
    return faults.Fault("changed", change=edit)


def drip(answer: Answer) -> Answer:
    return replace(answer, body=Drip(b"".join(answer.chunks())))  # type: ignore[arg-type]


@pytest.fixture
def minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which each piece of an answer takes ten seconds."""
    ticks = itertools.count(0.0, 10.0)
    monkeypatch.setattr("si_hub.hub.limits.time", SimpleNamespace(monotonic=lambda: next(ticks)))


def test_an_answer_that_unpacks_to_anything_is_not_unpacked(style: LoopbackHub) -> None:
    def pack(answer: Answer) -> Answer:
        body = gzip.compress(b"".join(answer.chunks()) + b" " * (64 << 20), 1)
        return replace(answer, body=body, headers={**answer.headers, "Content-Encoding": "gzip"})

    style.fault(change(pack), on="GET /api/models/")
    with pytest.raises(NetworkError, match="the Hub's answer is packed, which was not asked for"):
        pull(STYLE)


def test_no_answer_is_longer_than_any_listing(style: LoopbackHub) -> None:
    assert ANSWER.size is not None
    style.fault(faults.body(b" " * (ANSWER.size + 1) + b"{}"), on="GET /api/models/")
    with pytest.raises(NetworkError, match=f"the Hub's answer has more than {ANSWER.size} bytes"):
        pull(STYLE)


def test_an_answer_that_comes_byte_by_byte_is_left(style: LoopbackHub, minutes: None) -> None:
    style.fault(change(drip), on="GET /api/models/")
    with pytest.raises(NetworkError, match="the Hub's answer comes too slowly"):
        pull(STYLE)


def test_a_file_that_comes_byte_by_byte_is_asked_for_again_and_then_left(
    style: LoopbackHub, minutes: None, tmp_path: Path
) -> None:
    style.fault(change(drip), on="GET .*(/resolve/|blob)", times=100)
    with pytest.raises(NetworkError, match="the Hub's answer comes too slowly"):
        pull(STYLE, local_dir=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_what_comes_in_time_comes(style: LoopbackHub, tmp_path: Path) -> None:
    style.fault(change(drip), on="GET ", times=100)
    pull(STYLE, local_dir=tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == EXPECTED[WEIGHTS]


@pytest.mark.parametrize("size", [10**400, 2**63, -1, 1.5, True])
def test_no_file_has_a_size_that_no_disk_has(size: Any, style: LoopbackHub) -> None:
    sibling = {"rfilename": WEIGHTS, "size": size, "blobId": "0" * 40}
    edit_listing(style, siblings=[json.loads(json.dumps(sibling))])
    with pytest.raises(BadListing, match="a file's size is no number") as caught:
        pull(STYLE)
    assert len(str(caught.value)) < 300


def test_other_users_of_the_same_session_are_left_as_they_are(style: LoopbackHub) -> None:
    from huggingface_hub.utils import get_session

    pull(STYLE)
    assert ANSWER.size is not None
    style.fault(faults.body(b" " * (ANSWER.size + 1)), on="GET /api/models/")
    assert len(get_session().get(f"{style.url}/api/models/{STYLE}").content) == ANSWER.size + 1
