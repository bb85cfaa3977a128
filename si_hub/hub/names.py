"""Names that come from users and from servers: repositories, revisions, commits, paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath

from si_hub.errors import BadListing, UsageError

_REPO_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*", re.ASCII)
_REPO_ID_LIMIT = 96
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DRIVE = re.compile(r"[A-Za-z]:")
#: What no file of Windows is called: elsewhere such names are fetched.
_NOT_IN_WINDOWS = frozenset('<>:"|?*')
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))})
_HERE_IS_WINDOWS = isinstance(Path(), PureWindowsPath)
#: What git forbids in a reference, as `git check-ref-format` says.
_BAD_REVISION = re.compile(r"\.\.|@\{|//|[\x00-\x20\x7f~^:?*\[\\]|^[/.-]|[/.]$|/\.|\.lock(/|$)")
#: What a name ends with that is a file's.
_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".json", ".gguf")
#: The longest segment and path that common file systems take, in bytes.
SEGMENT_LIMIT, PATH_LIMIT = 255, 1024


@dataclass(frozen=True, slots=True)
class RepoRef:
    """A repository and, where it was said, the branch, tag or commit of it."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


def is_repo_id(text: str) -> bool:
    """Whether ``text`` can be a repository's id, ``user/name`` or a bare ``name``, by the Hub's rules."""
    return (
        _REPO_ID.fullmatch(text) is not None
        and len(text) <= _REPO_ID_LIMIT
        and not any(part in text for part in ("--", ".."))
        and not any(segment.endswith(("-", ".", ".git")) for segment in text.split("/"))
    )


def looks_like_ref(text: str) -> bool:
    """Whether ``text`` reads as ``user/name`` or ``user/name@revision``; a bare name or a file's is rather a path."""
    repo_id, _, _ = text.partition("@")
    return "/" in repo_id and is_repo_id(repo_id) and not repo_id.lower().endswith(_FILES)


def as_ref(source: str | PurePath) -> str:
    """A repository's id that was told as a path, whose slash is a backslash on Windows."""
    return source.as_posix() if isinstance(source, PurePath) else source


def is_repository(source: str | PurePath) -> bool:
    """Whether ``source`` is no path of this machine and reads as a repository's id."""
    return looks_like_ref(as_ref(source)) and not Path(source).exists()


def parse_ref(text: str, revision: str | None = None) -> RepoRef:
    """``user/name`` or ``user/name@revision``, such as a lock line; ``revision`` says it apart.

    Raises:
        UsageError: neither, or two revisions that differ.
    """
    repo_id, at, said = text.partition("@")
    if not is_repo_id(repo_id):
        raise UsageError("is no repository id", file=text, expected="user/name or user/name@revision")
    if at and revision is not None and said != revision:
        raise UsageError("two revisions", file=text, expected=revision, found=said, hint="Say one of them.")
    chosen = said if at else revision
    return RepoRef(repo_id, None if chosen is None else check_revision(chosen))


def check_revision(text: str) -> str:
    """``text``, if git could have a branch, tag or commit of that name.

    Raises:
        UsageError: it could not.
    """
    if not text or len(text) > SEGMENT_LIMIT or _BAD_REVISION.search(text):
        raise UsageError("is no revision", key=text or "revision", expected="a branch, a tag or a commit")
    return text


def names_branch_or_tag(text: str) -> bool:
    """Whether a branch or tag can be made under this name: no whole reference, ``refs/…``, and no commit's hash."""
    return not text.startswith("refs/") and not is_commit(text.lower())


def is_commit(text: str) -> bool:
    """Whether ``text`` is a whole commit hash, 40 hex digits."""
    return _COMMIT.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Whether ``text`` is a SHA-256, 64 hex digits."""
    return _SHA256.fullmatch(text) is not None


def safe_commit(text: object, repo_id: str) -> str:
    """``text``, if it is a whole commit hash.

    Raises:
        BadListing: anything else, which could name any folder.
    """
    if isinstance(text, str) and is_commit(text):
        return text
    raise BadListing("the commit is no hash", file=repo_id, expected="40 hex digits", found=text)


def why_unsafe(name: str) -> str | None:
    """Why a file of this name must not be written, None where it may be: below a folder, on any file system."""
    if not name or name.startswith("/"):
        return "is not a relative path"
    if "\\" in name or _DRIVE.match(name):
        return "is a path of Windows"
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        return "has a control character"
    segments = name.split("/")
    if _HERE_IS_WINDOWS and any(_is_reserved(segment) for segment in segments):
        return "is none that Windows can have"
    if any(segment in ("", ".", "..") for segment in segments):
        return "leaves its folder"
    try:
        sizes = [len(segment.encode()) for segment in segments]
    except UnicodeEncodeError:
        return "has half a surrogate pair"
    if max(sizes) > SEGMENT_LIMIT or sum(sizes) + len(sizes) > PATH_LIMIT:
        return "is too long"
    return None


def _is_reserved(segment: str) -> bool:
    """Whether Windows takes a name for a device or another file's stream, or another name for it."""
    device = segment.partition(".")[0].rstrip(" ").upper() in _DEVICES
    return device or segment.rstrip(". ") != segment or not _NOT_IN_WINDOWS.isdisjoint(segment)


def safe_path(name: object, repo_id: str) -> str:
    """``name``, if a file of that name stays below the folder that it is written into.

    Raises:
        BadListing: absolute, with ``..``, a drive letter, a backslash, a control character, too long.
    """
    if not isinstance(name, str):
        raise BadListing("a file's name is no text", file=repo_id, found=type(name).__name__)
    if problem := why_unsafe(name):
        raise BadListing(f"a file's name {problem}", file=repo_id, key=name, hint="Nothing of it is fetched.")
    return name


def check_collisions(names: Iterable[str], repo_id: str) -> None:
    """Refuse names that are one file where case does not count, or where one is the folder of another.

    Raises:
        BadListing: names both.
    """
    files: dict[str, str] = {}
    for name in sorted(names):
        folded = name.casefold()
        if folded in files:
            raise _collision(files[folded], name, repo_id)
        files[folded] = name
    for folded, name in files.items():
        parts = folded.split("/")
        for end in range(1, len(parts)):
            if (folder := "/".join(parts[:end])) in files:
                raise _collision(files[folder], name, repo_id)


def _collision(one: str, other: str, repo_id: str) -> BadListing:
    return BadListing("two names are one file on some systems", file=repo_id, key=other, found=one)
