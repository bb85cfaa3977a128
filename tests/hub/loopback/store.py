"""All repositories of a Hub, on disk: ``blobs/`` and one JSON file each under ``repositories/``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.hub.loopback import git
from tests.hub.loopback.blobs import Blobs, write_atomic
from tests.hub.loopback.messages import Refusal
from tests.hub.loopback.repository import Commit, File, Repository

#: What a new repository holds, as on the Hub.
GIT_ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


class Store:
    """Repositories by id.

    Attributes:
        lock: held by whoever changes a repository, or needs two reads to agree.
        blobs: the bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.lock = threading.RLock()
        self.blobs = Blobs(folder)
        self._folder = folder / "repositories"
        self._folder.mkdir(exist_ok=True)
        stored = (json.loads(file.read_text("utf-8")) for file in sorted(self._folder.glob("*.json")))
        self._repositories = {item["id"]: Repository.from_dict(item) for item in stored}

    def ids(self) -> list[str]:
        return list(self._repositories)

    def find(self, repo_id: str) -> Repository | None:
        return self._repositories.get(repo_id)

    def create(self, repo_id: str, *, private: bool = False) -> Repository:
        """A new repository, with a first commit on ``main``."""
        with self.lock:
            repository = Repository(repo_id, private=private, created=int(time.time()))
            self._repositories[repo_id] = repository
            files = {".gitattributes": self.small(GIT_ATTRIBUTES.encode())}
            self.commit(repository, "main", files, title="initial commit", author=repository.owner, parent=None)
            return repository

    def delete(self, repo_id: str) -> None:
        with self.lock:
            del self._repositories[repo_id]
            self._file(repo_id).unlink()

    def save(self, repository: Repository) -> None:
        """To be called, with the lock held, after every change to a repository."""
        write_atomic(self._file(repository.id), json.dumps(repository.as_dict(), indent=1).encode())

    def commit(
        self,
        repository: Repository,
        name: str,
        files: Mapping[str, File],
        *,
        parent: str | None,
        title: str,
        author: str,
        description: str = "",
    ) -> Commit:
        """One commit of these files, to which ``name`` then points."""
        with self.lock:
            now = int(time.time())
            commit = repository.commit(
                files, parent=parent, title=title, description=description, author=author, time=now
            )
            repository.advance(name, commit.sha)
            self.save(repository)
            return commit

    def small(self, content: bytes) -> File:
        """A file that git itself keeps."""
        return File(git.object_id("blob", content), self.blobs.add(content), len(content), large=False)

    def large(self, sha256: str, size: int) -> File:
        """A file that LFS keeps, uploaded before.

        Raises:
            Refusal: 400, it was not, or with other bytes.
        """
        if not self.blobs.verify(sha256, size):
            raise Refusal(
                400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {sha256}"
            )
        return File(git.object_id("blob", git.pointer(sha256, size)), sha256, size, large=True)

    def read(self, file: File) -> bytes:
        return self.blobs.read(file.sha256)

    def _file(self, repo_id: str) -> Path:
        return self._folder / (repo_id.replace("/", "--") + ".json")
