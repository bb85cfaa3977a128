"""Calls to the Hub: a result, or one of our errors. Tried again where that can help; the token is never shown.

huggingface_hub repeats some requests and not others, and its exceptions carry the request with the token in it. Here
every call is repeated alike, and an error is made new: it has neither cause nor context that could hold a header.
"""

from __future__ import annotations

import json
import logging
import random
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlsplit

from si_hub import __version__
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
from si_hub.hub.limits import ANSWER, Excess, Limit, bounded
from si_hub.tokens import conceal
from si_hub.words import call

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")

LIBRARY = "si-hub"
#: Seconds before each further attempt, where the Hub does not say how long.
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
#: A Hub that wants more seconds than this gets an error instead of a user who waits.
LONGEST_WAIT = 90.0
#: Waits that are worth a word.
NOTICED_WAIT = 4.0
#: Seconds without a byte until a request counts as lost.
TIMEOUT = 20.0
#: The most characters of a server's own words that an error repeats.
WORDS_LIMIT = 300

_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
#: Of these, what is said in place of a server that may be at it still.
_LATE = frozenset({408, 502, 504})
_LOGIN = "Log in with `hf auth login`, or pass a token."
_RATELIMIT = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")

log = logging.getLogger("si_hub.hub")


@dataclass(frozen=True, slots=True)
class About:
    """What a call is about, for its errors."""

    repo_id: str | None = None
    revision: str | None = None
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class _Done(Generic[T]):
    value: T


@dataclass(frozen=True, slots=True)
class _Failed:
    """An attempt that gave no result.

    Attributes:
        error: what to tell the user, made new.
        again: whether another attempt may do better.
        wait: seconds that the Hub asks for.
        lost: whether the request may have been carried out all the same.
        unanswered: path of a request that the Hub may be at still.
    """

    error: SiHubError
    again: bool = False
    wait: float | None = None
    lost: bool = False
    unanswered: str = ""


class Client:
    """The Hub, as one user with one token sees it.

    Args:
        token: a token; True for the one of `hf auth login`, False for none, None for it where there is one.
        endpoint: address of the Hub, ``HF_ENDPOINT`` or huggingface.co by default.
        waits: seconds before each further attempt; `WAITS` by default.

    Raises:
        AuthError: a token that no header can hold.
    """

    def __init__(
        self,
        token: str | bool | None = None,
        endpoint: str | None = None,
        *,
        waits: tuple[float, ...] | None = None,
    ) -> None:
        token = self._token = conceal(token)
        if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
            raise AuthError("the token is none: it has spaces, line ends or no characters at all", hint=_LOGIN)
        self._endpoint = endpoint
        self._waits = waits
        self._stopped = threading.Event()

    @cached_property
    def api(self) -> HfApi:
        """huggingface_hub's own client; its methods are for `call`."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=self._token, library_name=LIBRARY, library_version=__version__)

    @property
    def endpoint(self) -> str:
        """Address of the Hub."""
        return self.api.endpoint

    def headers(self) -> dict[str, str]:
        """Headers for a request of our own, the token among them: only for inside of a function given to `call`."""
        from huggingface_hub.utils import build_hf_headers

        return build_hf_headers(token=self._token, library_name=LIBRARY, library_version=__version__)

    def url(self, repo_id: str, commit: str, path: str) -> str:
        """Address of one file of one commit."""
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repo_id, path, revision=commit, endpoint=self.endpoint)

    def stop(self) -> None:
        """Let calls that wait for another attempt, in other threads, fail at once."""
        self._stopped.set()

    def call(
        self,
        function: Callable[..., T],
        *arguments: Any,
        about: About | str | None = None,
        waits: tuple[float, ...] | None = None,
        settled: Callable[[], T | None] | None = None,
        limit: Limit | None = ANSWER,
        once: str | None = None,
        **options: Any,
    ) -> T:
        """``function(*arguments, **options)``, tried again after lost connections, timeouts, 408, 429 and 5xx.

        Args:
            function: usually a method of `api`.
            about: the repository, revision and file that errors name.
            waits: seconds before each further attempt, ``()`` for a single one; the client's by default.
            settled: for what must not happen twice: asked before another attempt that follows a lost answer; what it
                returns is the result, None where the lost request was not carried out.
            limit: of each answer; None where huggingface_hub fetches files itself.
            once: part of the path of a request that would happen twice where the first is only late: after it has timed
                out, ``settled`` is asked at every further wait, and nothing else.

        Raises:
            AuthError, GatedRepository, MissingRepository, MissingRevision, MissingEntry, RateLimited, NetworkError,
                ConflictError, UsageError: what the Hub answered, or that it did not.
            FileAccessError: a file of this machine.
        """
        about = about if isinstance(about, About) else About(about)
        pauses = next(given for given in (waits, self._waits, WAITS) if given is not None)
        late = False
        for pause in (*pauses, None):
            if not late:
                done = self._attempt(function, arguments, options, about, limit)
                if not isinstance(done, _Failed):
                    return done.value
                failure, late = done, once is not None and once in done.unanswered
            wait = failure.wait if failure.wait is not None else (pause or 0.0) * random.uniform(0.8, 1.2)
            if pause is None or not failure.again or wait > LONGEST_WAIT:
                break
            log.log(
                logging.WARNING if wait > NOTICED_WAIT else logging.INFO,
                "%s: %s; trying again in %.0f s", about.repo_id or self.endpoint, failure.error.problem, wait,
            )  # fmt: skip
            if self._stopped.wait(wait):
                break
            if settled is not None and failure.lost and (value := settled()) is not None:
                return value
        # Raised here and not where it was caught: so it has no context, which would hold the request.
        raise failure.error

    def _attempt(
        self,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        about: About,
        limit: Limit | None,
    ) -> _Done[T] | _Failed:
        try:
            with bounded(limit):
                return _Done(function(*arguments, **options))
        except (SiHubError, ImportError, NameError, AssertionError, MemoryError):
            raise
        except Exception as error:
            return self._failure_of(error, about)

    def _failure_of(self, error: Exception, about: About) -> _Failed:
        """What an exception of huggingface_hub, of its HTTP library or of this machine means."""
        from huggingface_hub import errors
        from huggingface_hub.utils import httpx

        if isinstance(error, Excess):
            hint = "Try again later, or take another Hub or mirror."
            return _Failed(
                NetworkError(str(error), file=about.repo_id, key=about.entry, hint=hint), error.again, lost=True
            )
        if isinstance(error, errors.HfHubHTTPError):
            return self._refusal_of(error, about)
        if isinstance(error.__cause__, Exception) and isinstance(error, errors.LocalEntryNotFoundError):
            return self._failure_of(error.__cause__, about)
        if isinstance(error, errors.LocalTokenNotFoundError):
            return _Failed(AuthError("there is no token on this machine", file=about.repo_id, hint=_LOGIN))
        if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
            elsewhere = call("pull", about.repo_id or "REPO_ID")
            return _Failed(
                NetworkError(
                    "asking the Hub is switched off",
                    file=about.repo_id,
                    key=about.entry or about.revision,
                    hint=f"Unset HF_HUB_OFFLINE, or fetch it where there is a network: {elsewhere}",
                )
            )
        if isinstance(error, errors.HFValidationError):
            return _Failed(UsageError("is no repository id", file=about.repo_id, expected="user/name"))
        if isinstance(error, httpx.TransportError):
            unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
            never = isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol)
            problem = "the Hub cannot be reached" if unreached else "the connection to the Hub was lost"
            return self._loss_of(problem, error, about, again=not never, carried_out=not unreached)
        if isinstance(error, OSError) and error.errno is not None:
            return _Failed(FileAccessError(error.strerror or type(error).__name__, file=error.filename))
        if isinstance(error, json.JSONDecodeError | KeyError | TypeError | AttributeError | UnicodeError):
            return self._loss_of("the Hub's answer makes no sense", error, about)
        # Bodies cut short (OSError without a number), headers that are missing, xet's own.
        return self._loss_of("the transfer broke off", error, about)

    def _loss_of(
        self, problem: str, error: Exception, about: About, *, again: bool = True, carried_out: bool = True
    ) -> _Failed:
        hint = f"Check the network, and that {self.endpoint} is up; then run it again."
        return _Failed(
            NetworkError(problem, file=about.repo_id, key=about.entry, found=type(error).__name__, hint=hint),
            again, lost=carried_out, unanswered=_late_path(error),
        )  # fmt: skip

    def _refusal_of(self, error: HfHubHTTPError, about: About) -> _Failed:
        """What an answer with an error status means."""
        from huggingface_hub import errors

        status, said = error.response.status_code, self._words(error)
        where: dict[str, Any] = {"file": about.repo_id, "found": said}
        if isinstance(error, errors.GatedRepoError):
            hint = f"Ask for access at {self.endpoint}/{about.repo_id}. {_LOGIN}"
            return _Failed(GatedRepository("its owner has to grant access first", hint=hint, **where))
        if isinstance(error, errors.DisabledRepoError):
            return _Failed(MissingRepository("the Hub has disabled this repository", **where))
        if isinstance(error, errors.RepositoryNotFoundError):
            return _Failed(
                MissingRepository("no such repository, or a private one", hint=f"Check the name. {_LOGIN}", **where)
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return _Failed(MissingRevision("the repository has no such revision", key=about.revision, **where))
        if isinstance(error, errors.EntryNotFoundError):
            return _Failed(MissingEntry("the repository has no such file", key=about.entry, **where))
        if status == 429:
            wait = _asked_wait(error)
            hint = "Try again later." if wait is None else f"Try again in {wait:.0f} s."
            return _Failed(RateLimited("the Hub wants fewer requests", hint=f"{hint} {_LOGIN}", **where), True, wait)
        if status in _AGAIN:
            problem = f"the Hub has trouble: HTTP {status}"
            return _Failed(
                NetworkError(problem, hint="Run it again later.", **where),
                True,
                _asked_wait(error),
                lost=True,
                unanswered=error.response.url.path if status in _LATE else "",
            )
        if error.response.url.netloc.decode() != urlsplit(self.endpoint).netloc:
            problem = f"the file server answers HTTP {status}"
            return _Failed(NetworkError(problem, key=about.entry, hint="Run it again.", **where), again=True)
        for statuses, kind, problem, advice in _STATUSES:
            if status in statuses:
                return _Failed(kind(problem, key=about.entry, hint=advice, **where))
        return _Failed(NetworkError(f"the Hub answers HTTP {status}", key=about.entry, **where))

    def _words(self, error: HfHubHTTPError) -> str | None:
        """The server's own words, shortened."""
        return self.mask(error.server_message or "")[:WORDS_LIMIT] or None

    def mask(self, words: str) -> str:
        """What a server says, without the token, which a strange one might send back."""
        for secret in self._secrets():
            words = words.replace(secret, "***")
        return words

    def _secrets(self) -> list[str]:
        from huggingface_hub import get_token

        known = [str(self._token)] if isinstance(self._token, str) else []
        with suppress(Exception):  # whatever is wrong with the machine's token, this is no time to say so
            known += [token] if (token := get_token()) else []
        return known


_STATUSES: tuple[tuple[frozenset[int], type[SiHubError], str, str | None], ...] = (
    (frozenset({401}), AuthError, "the Hub does not accept the token, or wants one", _LOGIN),
    (frozenset({403}), AuthError, "the token may not do this", "Take one with that right."),
    (frozenset({404, 410}), MissingFile, "the Hub has no such thing", None),
    (frozenset({409, 412}), ConflictError, "the repository has changed, or has this already", "Look, and try again."),
    (frozenset({400, 413, 415, 422}), UsageError, "the Hub refuses the request", None),
)


def _late_path(error: Exception) -> str:
    """The path of a request that had no answer in time, of which the server may be at it still; else none."""
    from huggingface_hub.utils import httpx

    request = getattr(error, "_request", None)
    return str(request.url.path) if isinstance(error, httpx.ReadTimeout) and request is not None else ""


def _asked_wait(error: HfHubHTTPError) -> float | None:
    """Seconds that the answer asks to wait, by ``RateLimit`` or ``Retry-After``; None where it does not say."""
    headers = error.response.headers
    if limit := _RATELIMIT.search(headers.get("RateLimit", "")):
        return float(limit[1])
    after = headers.get("Retry-After", "").strip()
    if after.isdecimal():
        return float(after)
    try:
        when = parsedate_to_datetime(after)
    except (ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())
