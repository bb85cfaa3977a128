"""The loopback Hub as tests hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from tests.hub.loopback import (  # noqa: F401  (the modules of the routes fill the table)
    account_routes,
    download_routes,
    listing_routes,
    reference_routes,
    upload_routes,
)
from tests.hub.loopback.faults import Fault, Faults, Planned
from tests.hub.loopback.log import Exchange, Log
from tests.hub.loopback.messages import Answer, Request
from tests.hub.loopback.repository import File, Repository
from tests.hub.loopback.routes import dispatch
from tests.hub.loopback.server import Listener
from tests.hub.loopback.service import Service

Content = bytes | str | Path | None


class LoopbackHub:
    """A Hub and its file server, listening from construction until `close`.

    Args:
        folder: where its repositories are kept; a folder that a Hub left behind is continued.
        port, files_port: of the two servers; 0 for any that is free.
        chunk_size, large_from, page_size: see `Service`; all three may be changed later through `service`.
        listener: called with every exchange when it is over.

    Attributes:
        url: the Hub's address, on ``localhost``.
        files_url: the file server's, on ``127.0.0.1``: another host name and port.
        log: every exchange.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        port: int = 0,
        files_port: int = 0,
        chunk_size: int | None = None,
        large_from: int = 10 * 1024,
        page_size: int = 1000,
        listener: Callable[[Exchange], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.service = Service(self.folder, chunk_size=chunk_size, large_from=large_from, page_size=page_size)
        self.log, self._faults = Log(listener), Faults()
        self._listeners = [
            Listener("hub", port, self._respond, self._faults, self.log),
            Listener("files", files_port, self._respond, self._faults, self.log),
        ]
        hub, files = self._listeners
        self.url = self.service.hub_url = f"http://localhost:{hub.server_port}"
        self.files_url = self.service.files_url = f"http://127.0.0.1:{files.server_port}"

    def _respond(self, request: Request) -> Answer:
        return dispatch(self.service, request)

    def token(self, name: str = "writer") -> str:
        """The token of this name: writer, reader, powerless (of "user"); other, visitor (of "other"); revoked."""
        return self.service.accounts.named(name).text

    @property
    def repositories(self) -> list[str]:
        """The ids of all repositories."""
        return self.service.store.ids()

    def repo(self, repo_id: str, *, private: bool | None = None, gated: bool | None = None) -> HubRepository:
        """The repository of this id, made if it is not there."""
        store = self.service.store
        found = store.find(repo_id) or store.create(repo_id)
        with store.lock:
            found.private = found.private if private is None else private
            found.gated = found.gated if gated is None else gated
            store.save(found)
        return HubRepository(self.service, found)

    def fault(self, fault: Fault, on: str = "", *, skip: int = 0, times: int | None = 1) -> Planned:
        """Let requests meet a fault.

        Args:
            fault: of `tests.hub.loopback.faults`.
            on: searched in ``METHOD /path?query``; every request of both servers matches ``""``.
            skip: how many matching requests, counted from now, go through before.
            times: how many then meet it; None: all.

        Returns:
            Planned: ``.met`` counts the requests that met it.
        """
        return self._faults.plan(fault, on, skip=skip, times=times)

    def clear_faults(self) -> None:
        self._faults.clear()

    def drain(self) -> None:
        """Wait until no request is on its way any more; the clients must have hung up, as by `close_session`.

        Raises:
            TimeoutError: a client holds a connection.
        """
        for listener in self._listeners:
            listener.drain()

    def environment(self, home: str | Path, token: str | None = None) -> dict[str, str]:
        """The environment of a client in another process; see `environment.client_environment`."""
        from tests.hub.loopback.environment import client_environment

        return client_environment(self.url, home, None if token is None else self.token(token))

    def close(self) -> None:
        """Stop listening and end all connections.

        Raises:
            Exception: the first error of the Hub's own that a request met.
        """
        for listener in self._listeners:
            listener.close()
        for listener in self._listeners:
            for problem in listener.problems:
                raise problem

    def __enter__(self) -> LoopbackHub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HubRepository:
    """A repository as its Hub sees it: read and changed without a request."""

    def __init__(self, service: Service, repository: Repository) -> None:
        self._service, self._store, self.state = service, service.store, repository

    @property
    def id(self) -> str:
        return self.state.id

    def commit(
        self, files: Mapping[str, Content], message: str = "commit", *, branch: str = "main", author: str | None = None
    ) -> str:
        """Add, replace or (None) delete files, whatever their names; the answer is the commit's id."""
        with self._store.lock:
            head = self.state.resolve(branch)
            kept = {path: file for path, file in head.files.items() if path not in files}
            added = {path: self._file(path, content) for path, content in files.items() if content is not None}
            author = author or self.state.owner
            made = self._store.commit(self.state, branch, kept | added, parent=head.sha, title=message, author=author)
            return made.sha

    def _file(self, path: str, content: bytes | str | Path) -> File:
        data = content.read_bytes() if isinstance(content, Path) else content
        data = data.encode() if isinstance(data, str) else data
        if self._service.upload_mode(path, len(data)) == "regular":
            return self._store.small(data)
        return self._store.large(self._store.blobs.add(data), len(data))

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The bytes of every file of a revision, without ``.gitattributes``."""
        held = self.state.resolve(revision).files
        return {path: self._store.read(file) for path, file in sorted(held.items()) if path != ".gitattributes"}

    def listing(self, revision: str = "main") -> dict[str, File]:
        """Ids and sizes of every file of a revision."""
        return dict(self.state.resolve(revision).files)

    def head(self, revision: str = "main") -> str:
        return self.state.resolve(revision).sha

    def commits(self, revision: str = "main") -> list[str]:
        """The commits of a revision, newest first; the last is the empty one every repository starts with."""
        return [commit.sha for commit in self.state.history(revision)]

    def messages(self, revision: str = "main") -> list[str]:
        """The first lines of the commits of a revision, newest first."""
        return [commit.title for commit in self.state.history(revision)]

    @property
    def branches(self) -> dict[str, str]:
        return dict(self.state.branches)

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.state.tags)

    @property
    def pulls(self) -> dict[str, str]:
        """The heads of the pull requests, by ``refs/pr/N``."""
        return {f"refs/pr/{pull.number}": pull.head for pull in self.state.pulls}

    def tag(self, name: str, revision: str = "main") -> None:
        with self._store.lock:
            self.state.tags[name] = self.head(revision)
            self._store.save(self.state)

    def branch(self, name: str, revision: str = "main") -> None:
        with self._store.lock:
            self.state.branches[name] = self.head(revision)
            self._store.save(self.state)

    def admit(self, account: str) -> None:
        """Let an account read the files of a gated repository."""
        with self._store.lock:
            self.state.admitted.append(account)
            self._store.save(self.state)

    def delete(self) -> None:
        self._store.delete(self.id)
