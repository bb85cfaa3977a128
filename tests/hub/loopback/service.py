"""What the routes share: settings, accounts, store, addresses; and who may do what."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path

from tests.hub.loopback.accounts import Accounts, Token
from tests.hub.loopback.messages import Refusal, Request
from tests.hub.loopback.repository import Repository
from tests.hub.loopback.store import Store

#: Suffixes that LFS keeps whatever their size; the Hub's own list, shortened to what an adapter's repository may hold.
LARGE_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".npz", ".npy", ".zip", ".tar")


@dataclass
class Service:
    """A Hub without its sockets.

    Attributes:
        chunk_size: files larger than this are uploaded in parts of this size; None: in one piece.
        large_from: size from which LFS keeps a file; the Hub's is 10 MiB.
        page_size: entries on one page of a listing; the Hub's is 1000.
        detour: whether small files are reached through a relative redirect, as on the Hub they may be.
        hub_url, files_url: the two servers, under two host names.
    """

    folder: Path
    chunk_size: int | None = None
    large_from: int = 10 * 1024
    page_size: int = 1000
    detour: bool = False
    accounts: Accounts = field(default_factory=Accounts)
    hub_url: str = ""
    files_url: str = ""

    def __post_init__(self) -> None:
        self.store = Store(self.folder)

    def upload_mode(self, path: str, size: int) -> str:
        return "lfs" if size >= self.large_from or path.lower().endswith(LARGE_SUFFIXES) else "regular"

    def readable(self, request: Request, repo_id: str) -> Repository:
        """A repository that whoever asks may see.

        Raises:
            Refusal: RepoNotFound, 401 without a token and 404 with one.
        """
        token, repository = self.accounts.speaker(request), self.store.find(repo_id)
        if repository is None or not repository.visible(token):
            raise Refusal(404 if token else 401, "Repository not found", "RepoNotFound")
        return repository

    def open(self, request: Request, repo_id: str) -> Repository:
        """A repository whose files whoever asks may read.

        Raises:
            Refusal: as `readable`; GatedRepo, 401 without a token and 403 with one.
        """
        repository, token = self.readable(request, repo_id), self.accounts.speaker(request)
        if not repository.admits(token):
            raise Refusal(403 if token else 401, f"Access to model {repo_id} is restricted.", "GatedRepo")
        return repository

    def writable(self, request: Request, repo_id: str, *, proposing: bool = False) -> tuple[Repository, Token]:
        """A repository that whoever asks may change, or propose a change to.

        Raises:
            Refusal: as `readable`; 401 without a token, 403 with one that may not.
        """
        repository, token = self.readable(request, repo_id), self.accounts.member(request)
        if not (token.role == "write" if proposing else token.may_write(repo_id)):
            raise Refusal(403, "You don't have the rights to write on this repo")
        return repository, token

    def signed(self, path: str) -> str:
        """The address of a path on the file server: whoever has it may use it, as the Hub's storage does it."""
        return f"{self.files_url}{path}?signature={_signature(path)}"

    def signed_on_hub(self, path: str) -> str:
        return f"{self.hub_url}{path}?signature={_signature(path)}"

    def check_signature(self, request: Request) -> None:
        """
        Raises:
            Refusal: 403, not an address this Hub gave out; 400, a token where a signature is.
        """
        if not hmac.compare_digest(request.query.get("signature", [""])[-1], _signature(request.path)):
            raise Refusal(403, "SignatureDoesNotMatch")
        if "authorization" in request.headers:
            raise Refusal(400, "InvalidArgument: Only one auth mechanism allowed")


def _signature(path: str) -> str:
    return hmac.new(b"loopback", path.encode(), hashlib.sha256).hexdigest()
