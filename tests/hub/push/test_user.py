"""Who pushes: whose token it is, and what it may make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from si_hub.errors import (
    AuthError,
    BadListing,
)
from si_hub.hub.push.pushing import push
from tests.hub.loopback import faults
from tests.hub.push.conftest import Push

if TYPE_CHECKING:
    from tests.hub.loopback import LoopbackHub


STYLE = "user/style"


def asked(hub: LoopbackHub) -> list[str]:
    """Requests that are not mere questions."""
    return [f"{e.method} {e.path}" for e in hub.log if e.method not in ("GET", "HEAD")]


def test_a_bare_name_is_the_users_own(send: Push, client: LoopbackHub) -> None:
    assert send("style").repo_id == STYLE
    assert client.repositories == [STYLE]


def test_an_organisation_is_pushed_to(send: Push, client: LoopbackHub) -> None:
    assert send("guild/style").commit == client.repo("guild/style").head()


@pytest.mark.parametrize("token", ["reader", "powerless", "other", "visitor", "revoked"])
def test_who_may_not_write_is_told_before_a_byte_is_sent(send: Push, client: LoopbackHub, token: str) -> None:
    before = client.repo(STYLE).head()
    client.log.clear()
    with pytest.raises(AuthError):
        send(STYLE, token=token)
    assert asked(client) == []
    assert client.repo(STYLE).head() == before


@pytest.mark.parametrize("token", ["reader", "powerless", "other", "revoked"])
def test_who_may_not_make_a_repository_sends_nothing(send: Push, client: LoopbackHub, token: str) -> None:
    with pytest.raises(AuthError):
        send(STYLE, token=token)
    assert client.repositories == []
    assert set(asked(client)) <= {"POST /api/repos/create"}


def test_a_token_that_may_only_read_is_told_before_anything_is_tried(send: Push, client: LoopbackHub) -> None:
    with pytest.raises(AuthError, match="may only read"):
        send(STYLE, token="reader")
    assert asked(client) == []


def test_no_token_is_an_error_that_says_how_to_get_one(client: LoopbackHub, folder: Path) -> None:
    with pytest.raises(AuthError, match="hf auth login"):
        push(folder, STYLE)
    assert asked(client) == []


def test_what_a_server_calls_its_own_is_no_name_of_a_file_here(send: Push, client: LoopbackHub) -> None:
    client.repo(STYLE)
    client.fault(
        faults.edited(lambda refs: refs | {"branches": [{"name": "main", "ref": "x", "targetCommit": "../../x"}]}),
        on="/refs",
    )
    with pytest.raises(BadListing, match="40 hex digits"):
        send(STYLE)
    client.fault(faults.edited(lambda me: me | {"name": "../other"}), on="/whoami")
    with pytest.raises(BadListing, match=r"style: the user's name is none \(found \.\./other\)"):
        send("style")
    assert asked(client) == []
