"""What a folder remembers of its pushes: the repository of each adapter, the last commit of each branch. No token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from si_hub.errors import UsageError
from si_hub.hub.names import is_commit, is_repo_id
from si_hub.storage.files import atomic_file

MEMORY_NAME = ".si-hub.json"
#: A larger file is none of ours.
_LIMIT = 1_000_000


@dataclass(slots=True)
class Memory:
    """The memory of one folder.

    Attributes:
        adapters: file name of an adapter → repository.
        commits: ``{endpoint}/{repository}@{branch}`` → the commit that this folder has last seen there.
        pending: the same keys → file → hashes of what a push was about to commit: where its answer was lost, the
            next one knows its own work.
        requests: ``{endpoint}/{repository}@{branch} request`` → the pull request that this folder has opened last.
    """

    adapters: dict[str, str] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    pending: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)

    def repository(self, file: Path) -> str | None:
        """Where ``file`` was pushed to; a new name of the only adapter that is remembered is that adapter."""
        if file.name in self.adapters:
            return self.adapters[file.name]
        gone = [repo_id for name, repo_id in self.adapters.items() if not (file.parent / name).exists()]
        return gone[0] if len(gone) == len(self.adapters) == 1 else None

    def write(self, folder: Path) -> None:
        """Write the memory beside the adapter, whole or not at all.

        Raises:
            FileAccessError: the folder cannot be written to.
        """
        text = json.dumps({key: value for key, value in asdict(self).items() if value}, indent=2, sort_keys=True)
        with atomic_file(folder / MEMORY_NAME, overwrite=True) as file:
            file.write((text + "\n").encode())


def read_memory(folder: Path) -> Memory:
    """The memory of a folder; an empty one where there is none.

    Raises:
        UsageError: the file is not what `Memory.write` writes.
    """
    path = folder / MEMORY_NAME
    if not path.is_file():
        return Memory()
    try:
        data = json.loads(path.read_bytes()[:_LIMIT])
        found = Memory(**{name.name: _table(data.get(name.name, {})) for name in fields(Memory)})
        found.pending = {key: _table(files) for key, files in found.pending.items()}
        good = all(map(is_repo_id, found.adapters.values())) and all(map(is_commit, found.commits.values()))
    except (ValueError, AttributeError, TypeError, RecursionError):
        good = False
    if not good:
        raise UsageError("is not what si-hub wrote there", file=path, hint="Delete it, and name the repository again.")
    return found


def key_of(endpoint: str, repo_id: str, branch: str) -> str:
    """The key of a branch."""
    return f"{endpoint}/{repo_id}@{branch}"


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(value)
