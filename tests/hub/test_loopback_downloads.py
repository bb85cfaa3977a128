"""The loopback Hub as the real huggingface_hub downloads from it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.loopback import HubRepository, LoopbackHub

WEIGHTS = random.Random(1).randbytes(40_000)
FILES = {"README.md": b"# hi\n", "samples/näher #1?.png": WEIGHTS[:11_000], "w.safetensors": WEIGHTS}
ID = "user/style"


@pytest.fixture
def repo(client: LoopbackHub) -> HubRepository:
    repo = client.repo(ID)
    repo.commit(FILES)
    repo.tag("v1")
    return repo


def contents(folder: str | Path) -> dict[str, bytes]:
    files = (file for file in Path(folder).rglob("*") if file.is_file() and ".cache" not in file.parts)
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
    return {name: content for name, content in found.items() if name != ".gitattributes"}


@pytest.mark.parametrize("revision", [None, "main", "v1", "refs/heads/main"])
def test_a_snapshot_is_what_was_committed(repo: HubRepository, revision: str | None) -> None:
    assert contents(snapshot_download(ID, revision=revision)) == FILES


def test_a_snapshot_of_a_commit_is_not_moved_by_the_next(repo: HubRepository) -> None:
    before = repo.head()
    repo.commit({"README.md": "later", "w.safetensors": None})
    assert contents(snapshot_download(ID, revision=before)) == FILES
    assert contents(snapshot_download(ID)) == {name: FILES[name] for name in FILES if "samples" in name} | {
        "README.md": b"later"
    }


def test_a_pinned_snapshot_is_loaded_without_a_request(repo: HubRepository, client: LoopbackHub) -> None:
    snapshot_download(ID, revision=repo.head())
    client.log.clear()
    assert contents(snapshot_download(ID, revision=repo.head())) == FILES
    assert len(client.log) == 0


def test_a_folder_of_ones_own_is_filled(repo: HubRepository, tmp_path: Path) -> None:
    snapshot_download(ID, local_dir=tmp_path / "own", allow_patterns="*.safetensors")
    assert contents(tmp_path / "own") == {"w.safetensors": WEIGHTS}


def test_the_token_stays_on_the_hub(repo: HubRepository, client: LoopbackHub) -> None:
    hf_hub_download(ID, "w.safetensors", token=client.token("reader"))
    assert {exchange.token for exchange in client.log if exchange.server == "hub"} == {client.token("reader")}
    assert [exchange.token for exchange in client.log if exchange.server == "files"] == [None]


def test_what_is_missing_is_named(repo: HubRepository) -> None:
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(ID, "nope.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(ID, "README.md", revision="nope")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("user/nope", "README.md")


def test_a_hub_that_is_gone_is_no_answer(client: LoopbackHub, repo: HubRepository, waits: list[float]) -> None:
    client.close()
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(ID, "README.md")


def test_a_safetensors_header_is_read_by_ranges(client: LoopbackHub) -> None:
    """`get_safetensors_metadata` asks for the first bytes only: a header of one tensor, then 300 000 bytes of it."""
    header = b'{"t":{"dtype":"U8","shape":[300000],"data_offsets":[0,300000]}}'
    content = len(header).to_bytes(8, "little") + header + bytes(300_000)
    client.repo(ID).commit({"model.safetensors": content})
    found = HfApi(endpoint=client.url).get_safetensors_metadata(ID)
    assert found.parameter_count == {"U8": 300_000}
    assert sum(exchange.answered for exchange in client.log.matching("files GET")) < 110_000


def test_a_detour_leads_to_the_same_files(client: LoopbackHub, repo: HubRepository) -> None:
    client.service.detour = True
    assert contents(snapshot_download(ID)) == FILES
    assert {exchange.status for exchange in client.log.matching("hub HEAD .*/resolve/")} == {307, 302}
