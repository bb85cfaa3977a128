"""Where a push goes: branches, pull requests, private repositories, and what is no branch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from si_hub.errors import (
    UsageError,
)
from tests.hub.push.conftest import Push
from tests.places import GOLDEN

if TYPE_CHECKING:
    from tests.hub.loopback import LoopbackHub


STYLE = "user/style"


OURS = ["README.md", "config.json", "samples/1.png", "styleinject.safetensors"]


def retrain(folder: Path, name: str = "three_branches") -> bytes:
    """Another adapter under the same name."""
    shutil.copy(GOLDEN / f"{name}.safetensors", folder / "ink.safetensors")
    return (folder / "ink.safetensors").read_bytes()


def asked(hub: LoopbackHub) -> list[str]:
    """Requests that are not mere questions."""
    return [f"{e.method} {e.path}" for e in hub.log if e.method not in ("GET", "HEAD")]


def test_a_branch_is_made_and_pushed_to(send: Push, client: LoopbackHub, folder: Path) -> None:
    send(STYLE)
    main_head = client.repo(STYLE).head()
    raw = retrain(folder)
    result = send(revision="dev")
    repo = client.repo(STYLE)
    assert repo.head() == main_head
    assert repo.commits("dev") == [result.commit, *repo.commits("main")]
    assert repo.files("dev")["styleinject.safetensors"] == raw
    assert result.load.endswith('revision="dev")')
    assert send(revision="dev").changed is False


def test_a_branch_may_have_a_slash(send: Push, client: LoopbackHub) -> None:
    result = send(STYLE, revision="feature/ink")
    assert client.repo(STYLE).head("feature/ink") == result.commit
    assert send(revision="feature/ink").changed is False


def test_a_new_repository_with_a_branch_has_both(send: Push, client: LoopbackHub) -> None:
    result = send(STYLE, revision="dev")
    repo = client.repo(STYLE)
    assert (repo.head("dev"), repo.files("main")) == (result.commit, {})


@pytest.mark.parametrize("revision", ["v1", "0123456789abcdef0123456789abcdef01234567", "refs/pr/9"])
def test_only_a_branch_can_be_pushed_to(send: Push, client: LoopbackHub, revision: str) -> None:
    send(STYLE)
    client.repo(STYLE).tag("v1")
    with pytest.raises(UsageError, match="no branch"):
        send(revision=revision)


def test_a_new_repository_is_private_where_asked_for_and_a_public_one_refused(
    send: Push, client: LoopbackHub, folder: Path
) -> None:
    send(STYLE, private=True)
    assert client.repo(STYLE).state.private
    retrain(folder)
    assert send(private=True).changed
    client.repo("user/open")
    client.log.clear()
    with pytest.raises(UsageError, match="is public"):
        send("user/open", private=True)
    assert asked(client) == []
