"""The loopback Hub as the real client of huggingface_hub meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from tests.hub.loopback import LoopbackHub, faults

WEIGHTS = bytes(range(256)) * 100


@pytest.fixture
def api(client: LoopbackHub) -> HfApi:
    return HfApi(endpoint=client.url, token=client.token("writer"))


def add(**files: bytes) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(name.replace("__", "."), content) for name, content in files.items()]


def test_what_is_pushed_comes_back(api: HfApi, client: LoopbackHub, tmp_path: Path) -> None:
    assert api.create_repo("style").repo_id == "user/style"
    api.create_commit(
        "user/style", add(README__md=b"---\nlicense: mit\n---\n# hi\n", w__safetensors=WEIGHTS), commit_message="m"
    )
    folder = Path(snapshot_download("user/style", token=False))
    assert (folder / "w.safetensors").read_bytes() == WEIGHTS
    assert client.repo("user/style").files()["w.safetensors"] == WEIGHTS
    assert client.repo("user/style").messages() == ["m", "initial commit"]


def test_a_stale_parent_is_412(api: HfApi, client: LoopbackHub) -> None:
    first = client.repo("user/style").head()
    client.repo("user/style").commit({"a": "1"})
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("user/style", add(b=b"2"), commit_message="m", parent_commit=first)


def test_a_fault_meets_the_request_it_was_planned_for(api: HfApi, client: LoopbackHub) -> None:
    client.repo("user/style").commit({"a.json": "{}", "w.safetensors": WEIGHTS})
    planned = client.fault(faults.corrupt(), on="GET /blob/")
    got = Path(hf_hub_download("user/style", "w.safetensors")).read_bytes()
    assert planned.met == 1
    assert len(got) == len(WEIGHTS)
    assert got != WEIGHTS
