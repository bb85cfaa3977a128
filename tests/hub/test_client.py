"""Calls to the Hub: what is tried again and for how long, what every answer becomes, and that no token is shown."""

from __future__ import annotations

import email.utils
import io
import logging
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from si_hub import errors
from si_hub.errors import (
    AuthError,
    ConflictError,
    FileAccessError,
    GatedRepository,
    MissingEntry,
    MissingFile,
    MissingRepository,
    MissingRevision,
    NetworkError,
    RateLimited,
    SiHubError,
    UsageError,
)
from si_hub.hub import client as clients
from si_hub.hub import listing
from si_hub.hub.client import About, Client
from si_hub.hub.names import RepoRef
from si_hub.hub.pull import pull
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import FILES, STYLE

REF = RepoRef(STYLE, "v1")


def ask(token: str | bool | None = None, ref: RepoRef = RepoRef(STYLE)) -> listing.Listing:  # noqa: B008
    return listing.fetch_listing(Client(token), ref)


@pytest.fixture
def style(client: LoopbackHub, waits: list[float]) -> LoopbackHub:
    client.repo(STYLE).commit(FILES)
    return client


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_trouble_that_passes_is_waited_for(status: int, style: LoopbackHub, waits: list[float]) -> None:
    style.fault(faults.status(status), times=3)
    assert ask().commit == style.repo(STYLE).head()
    assert len(style.log) == 4
    for asked, planned in zip(waits, clients.WAITS, strict=False):
        assert 0.8 * planned <= asked <= 1.2 * planned
    assert len(waits) == 3


def test_trouble_that_stays_is_an_error_after_all_attempts(style: LoopbackHub, waits: list[float]) -> None:
    style.fault(faults.status(503), times=None)
    with pytest.raises(NetworkError, match=r"the Hub has trouble: HTTP 503 \(found injected\).*again later"):
        ask()
    assert len(style.log) == 1 + len(clients.WAITS)


@pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
def test_the_hub_says_how_long_to_wait(header: str, style: LoopbackHub, waits: list[float]) -> None:
    style.fault(faults.rate_limit(7, header=header))
    ask()
    assert waits == [7.0]


def test_retry_after_may_be_a_date(style: LoopbackHub, waits: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    style.fault(faults.status(503, headers={"Retry-After": date}))
    ask()
    assert len(waits) == 1
    assert 25 < waits[0] <= 30


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "", f"Mon, 01 Jan {10**20} 00:00:00 GMT"])
def test_an_odd_retry_after_is_no_wish(value: str, style: LoopbackHub, waits: list[float]) -> None:
    style.fault(faults.status(503, headers={"Retry-After": value}))
    ask()
    assert waits[0] <= 1.2 * clients.WAITS[0]


def test_a_wait_that_nobody_wants_is_an_error_that_says_how_long(style: LoopbackHub, waits: list[float]) -> None:
    style.fault(faults.rate_limit(3600))
    with pytest.raises(RateLimited, match=r"wants fewer requests.*Try again in 3600 s"):
        ask()
    assert waits == []
    assert len(style.log) == 1


ANSWERS: list[tuple[int, str | None, type[SiHubError], str]] = [
    (401, None, AuthError, "does not accept the token, or wants one"),
    (403, None, AuthError, "the token may not do this"),
    (403, "GatedRepo", GatedRepository, "its owner has to grant access first.*Ask for access at"),
    (401, "GatedRepo", GatedRepository, "hf auth login"),
    (404, "RepoNotFound", MissingRepository, "hf auth login"),
    (404, "RevisionNotFound", MissingRevision, "user/style: v1: the repository has no such revision"),
    (404, "EntryNotFound", MissingEntry, "no such file"),
    (404, None, MissingFile, "no such thing"),
    (409, None, ConflictError, "has changed"),
    (412, None, ConflictError, "has changed"),
    (400, None, UsageError, "refuses the request"),
    (418, None, NetworkError, "HTTP 418"),
]


@pytest.mark.parametrize(("status", "code", "kind", "words"), ANSWERS)
def test_every_refusal_is_its_own_error_at_once(
    status: int, code: str | None, kind: type[SiHubError], words: str, style: LoopbackHub
) -> None:
    style.fault(faults.status(status, error=code))
    with pytest.raises(SiHubError, match=words) as caught:
        ask(ref=REF)
    assert type(caught.value) is kind
    assert len(style.log) == 1


def test_exit_codes_tell_the_errors_of_the_hub_apart() -> None:
    codes = {
        MissingRepository: 7, MissingRevision: 7, MissingEntry: 7, AuthError: 9, GatedRepository: 10, RateLimited: 11,
        NetworkError: 12, ConflictError: 13, errors.ChecksumError: 6, errors.BadListing: 3,
    }  # fmt: skip
    assert {kind: kind.exit_code for kind in codes} == codes


def test_a_token_that_the_hub_does_not_know_is_said_so(style: LoopbackHub) -> None:
    with pytest.raises(AuthError, match=r"does not accept the token.*hf auth login"):
        ask(style.token("revoked"))


def test_a_private_repository_is_missing_for_others(style: LoopbackHub) -> None:
    style.repo("user/secret", private=True)
    for token in (None, style.token("other")):
        with pytest.raises(MissingRepository, match="or a private one"):
            ask(token, RepoRef("user/secret"))
    assert ask(style.token("reader"), RepoRef("user/secret")).files == {
        ".gitattributes": ask(style.token("reader"), RepoRef("user/secret")).files[".gitattributes"]
    }


def test_true_wants_the_token_of_this_machine(style: LoopbackHub, home: Path) -> None:
    with pytest.raises(AuthError, match="there is no token on this machine"):
        ask(True)
    home.mkdir(exist_ok=True)
    (home / "token").write_text(style.token("reader"), encoding="utf-8")
    for token in (True, None):
        style.log.clear()
        ask(token)
        assert style.log[0].token == style.token("reader")
    style.log.clear()
    ask(False)
    assert style.log[0].token is None


def test_no_hub_at_all_is_an_error_that_says_where_it_should_be(waits: list[float]) -> None:
    unreachable = Client(False, "http://localhost:9")
    with pytest.raises(NetworkError, match=r"cannot be reached \(found ConnectError\).*http://localhost:9 is up"):
        listing.fetch_listing(unreachable, REF)
    assert len(waits) == len(clients.WAITS)


def test_offline_is_an_error_at_once(style: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match=r"asking the Hub is switched off.*HF_HUB_OFFLINE"):
        ask()
    assert len(style.log) == 0


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"3", b'{"id": 3, "siblings": 5}', b"\xff\xfe"])
def test_an_answer_that_makes_no_sense_is_asked_again_and_then_an_error(body: bytes, style: LoopbackHub) -> None:
    style.fault(faults.body(body))
    ask()
    style.fault(faults.body(body), times=None)
    with pytest.raises(SiHubError) as caught:
        ask()
    assert isinstance(caught.value, NetworkError | errors.BadListing)


def test_what_must_not_happen_twice_is_looked_for_before_it_is_tried_again(style: LoopbackHub) -> None:
    calls = Client(style.token("writer"))
    looked: list[str] = []

    def made() -> Any:
        looked.append("looked")
        return "there" if "v1" in style.repo(STYLE).tags else None

    style.fault(faults.lost_answer(), on="POST .*/tag/")
    assert calls.call(calls.api.create_tag, STYLE, tag="v1", about=STYLE, settled=made) == "there"
    style.fault(faults.dropped(), on="POST .*/tag/")
    calls.call(calls.api.create_tag, STYLE, tag="v2", about=STYLE, settled=lambda: style.repo(STYLE).tags.get("v2"))
    assert looked == ["looked"]
    style.fault(faults.rate_limit(0), on="POST .*/tag/")
    calls.call(calls.api.create_tag, STYLE, tag="v3", about=STYLE, settled=made)
    assert looked == ["looked"]
    assert set(style.repo(STYLE).tags) == {"v1", "v2", "v3"}


def test_a_stopped_client_waits_for_nothing(style: LoopbackHub, waits: list[float]) -> None:
    stopped = Client()
    stopped.stop()
    style.fault(faults.status(503), times=None)
    with pytest.raises(NetworkError):
        listing.fetch_listing(stopped, REF)
    assert len(style.log) == 1


def test_a_file_of_this_machine_is_not_the_hub_s_fault(style: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="No such file or directory"):
        Client().call((tmp_path / "gone").read_bytes)
    assert Client().call(lambda: 3) == 3


def test_who_asks_is_said(style: LoopbackHub) -> None:
    ask()
    assert style.log[0].headers["user-agent"].startswith("si-hub/")


@pytest.mark.parametrize("token", ["", "hf_a b", "hf_a\n", "hf_ä", "hf_\0"])
def test_a_token_that_no_header_can_hold_is_refused_without_being_shown(token: str) -> None:
    with pytest.raises(AuthError, match="the token is none") as caught:
        Client(token)
    assert not token or token not in str(caught.value)


def shown(error: BaseException) -> str:
    """All that a reporter of errors could print: with the local variables of every frame but the test's own."""
    assert error.__traceback__ is not None
    own = error.with_traceback(error.__traceback__.tb_next)
    printed = traceback.TracebackException.from_exception(own, capture_locals=True)
    return "".join(printed.format()) + repr(error) + repr(vars(error))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 429, 500])
def test_a_token_that_the_server_sends_back_is_not_shown(status: int, style: LoopbackHub) -> None:
    token = style.token("writer")
    style.fault(faults.status(status, headers={"X-Error-Message": f"Bearer {token} is not welcome"}), times=None)
    calls = Client(token)
    with pytest.raises(SiHubError, match="is not welcome") as caught:
        calls.call(calls.api.model_info, STYLE, about=About(STYLE))
    assert style.log[0].token == token
    assert token not in shown(caught.value)
    assert caught.value.__context__ is None
    assert token not in repr(vars(calls))


def test_the_token_of_this_machine_is_not_shown_either(style: LoopbackHub, home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / "token").write_text(style.token("writer"), encoding="utf-8")
    echo = {"X-Error-Message": f"Bearer {style.token('writer')} is not welcome"}
    style.fault(faults.status(400, headers=echo))
    with pytest.raises(UsageError, match=r"Bearer \*\*\* is not welcome"):
        ask()


@pytest.mark.parametrize("fault", [faults.status(400), faults.status(503), faults.lost_answer(), faults.body(b"{")])
def test_the_token_is_in_no_error_and_no_log_however_loud(
    fault: faults.Fault, style: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = style.token("writer")
    monkeypatch.setattr("huggingface_hub.constants.HF_DEBUG", True)
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    loggers = [logging.getLogger(name) for name in ("", "huggingface_hub", "httpx", "httpcore", "httpx2", "httpcore2")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    try:
        style.fault(fault, times=None)
        with pytest.raises(SiHubError) as caught:
            pull(STYLE, token=token)
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)
    assert style.log[0].token == token
    assert "api/models/user/style" in heard.getvalue()
    assert token not in heard.getvalue()
    assert token not in shown(caught.value)
