"""What of a folder goes into a repository: one adapter, its card, its pictures. Everything else stays, and is named."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from si_hub import format as file_format
from si_hub.adapter import Adapter
from si_hub.converters.families.registry import rejection
from si_hub.errors import CardError, FileAccessError, MissingFile, NotStyleInject, SiHubError, UsageError
from si_hub.format import DEFAULT_NAME
from si_hub.format.places import check_home
from si_hub.hub.card import card
from si_hub.hub.push.memory import MEMORY_NAME as REMEMBERED
from si_hub.storage.files import open_regular
from si_hub.storage.header import read_safetensors
from si_hub.words import call

README = "README.md"
CONFIG = "config.json"
SAMPLES = "samples"
#: Pictures beyond these stay where they are.
MOST_SAMPLES, LARGEST_SAMPLE, ALL_SAMPLES = 16, 10_000_000, 50_000_000

#: Picture suffix → how such a file begins; what lies about its kind is not sent.
_PICTURES: dict[str, re.Pattern[bytes]] = {
    ".png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    ".jpg": re.compile(rb"\xff\xd8\xff"),
    ".jpeg": re.compile(rb"\xff\xd8\xff"),
    ".webp": re.compile(rb"RIFF[\s\S]{4}WEBP"),
    ".gif": re.compile(rb"GIF8[79]a"),
}
_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's bytes by every name that the Hub may have for them."""

    size: int
    sha256: str
    git_sha1: str

    @property
    def text(self) -> str:
        """Both hashes with the names that listings give them."""
        return f"sha256:{self.sha256} git-sha1:{self.git_sha1}"


@dataclass(frozen=True)
class Outgoing:
    """One file of the push.

    Attributes:
        name: path in the repository.
        source: the file that it is, or its bytes.
        digest: of the bytes as they were when the push began.
    """

    name: str
    source: Path | bytes
    digest: Digest

    @cached_property
    def state_at_first(self) -> tuple[int, ...] | None:
        """What the file system said of ``source`` at first: size, time, number."""
        return _state(self.source) if isinstance(self.source, Path) else None

    def check_unchanged(self) -> None:
        """Refuse to send what is not what was checked.

        Raises:
            FileAccessError: the file was written to since.
        """
        if isinstance(self.source, Path) and _state(self.source) != self.state_at_first:
            raise FileAccessError("was changed while it was being pushed", file=self.source, hint="Run it again.")


@dataclass(frozen=True, slots=True)
class Content:
    """What is to be pushed, checked.

    Attributes:
        path: the adapter's file.
        adapter: what is in it.
        weights: the same as it goes.
        samples: preview pictures, in the order of the document's ``preview_prompts``.
        config: the small file that downloads are counted by.
        readme: text of the card beside the adapter, None where there is none.
        left_out: what stays: name → why.
    """

    path: Path
    adapter: Adapter
    weights: Outgoing
    samples: tuple[Outgoing, ...]
    config: Outgoing
    readme: str | None
    left_out: dict[str, str]


def collect_content(path: str | Path) -> Content:
    """Find the adapter that ``path`` is, or that the folder ``path`` holds, check it whole, and what goes with it.

    Beside a file that is named, a README.md without front matter is some other project's.

    Raises:
        MissingFile: nothing there, or a folder without an adapter.
        UsageError: several adapters, a pickle, a symbolic link.
        FormatError, ChecksumError: the adapter is broken, or holds a path of this machine.
        CardError: a README.md that is no text.
    """
    given = Path(path)
    file = _only_adapter(given) if given.is_dir() else _regular(given)
    before = _state(file)
    adapter = _validate(file)
    weights = prepare_file(DEFAULT_NAME, file)
    if before != weights.state_at_first:
        raise FileAccessError("was changed while it was being read", file=file, hint="Run it again.")
    left_out: dict[str, str] = {}
    samples = tuple(_samples(file.parent / SAMPLES, left_out))
    for entry in sorted(os.scandir(file.parent), key=lambda entry: entry.name):
        if entry.name not in (file.name, README, SAMPLES, REMEMBERED):
            left_out[entry.name] = _why_not(entry)
    readme = _readme(file.parent / README)
    if readme is not None and not given.is_dir() and not card.is_card(readme):
        left_out[README] = "no model card, and only the adapter's file was named"
        readme = None
    return Content(file, adapter, weights, samples, _config(adapter), readme, left_out)


def prepare_file(name: str, source: Path | bytes) -> Outgoing:
    """A file of the push with its hashes; the file is remembered as it is now.

    Raises:
        MissingFile, FileAccessError: no regular file, no access.
    """
    found = Outgoing(name, source, _digest_of(source))
    _ = found.state_at_first
    return found


def digest_bytes(raw: bytes) -> Digest:
    """The hashes of bytes."""
    return _digest(len(raw), [raw])


def _digest_of(source: Path | bytes) -> Digest:
    if isinstance(source, bytes):
        return digest_bytes(source)
    with os.fdopen(open_regular(source), "rb") as file:
        return _digest(os.fstat(file.fileno()).st_size, iter(lambda: file.read(_CHUNK), b""))


def _digest(size: int, chunks: Iterable[bytes]) -> Digest:
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for chunk in chunks:
        sha256.update(chunk)
        git.update(chunk)
    return Digest(size, sha256.hexdigest(), git.hexdigest())


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as error:
        raise FileAccessError(error.strerror or str(error), file=path) from error
    return found.st_size, found.st_mtime_ns, found.st_ino


def _regular(path: Path) -> Path:
    if path.suffix.lower() in _PICKLES:
        raise UsageError(
            "is a pickle, which can run any code", file=path, expected="a StyleInject .safetensors file",
            hint=f"Convert it first: {call('convert', path)}",
        )  # fmt: skip
    if path.is_symlink():
        raise UsageError("is a symbolic link", file=path, hint=f"Name the file itself: {path.resolve()}")
    os.close(open_regular(path))
    return path


def _only_adapter(folder: Path) -> Path:
    present = sorted(path for path in folder.glob("*.safetensors") if path.is_file() and not path.is_symlink())
    ours = [path for path in present if _is_ours(path)]
    if len(ours) == 1:
        return ours[0]
    names = ", ".join(path.name for path in ours or present)
    if ours:
        hint = f"Say which: {call('push', ours[0])}"
        raise UsageError("several adapters to choose from", file=folder, found=names, hint=hint)
    if present:
        hint = _hint_at_making(present[0])
        raise NotStyleInject("the folder holds no StyleInject file", file=folder, found=names, hint=hint)
    raise MissingFile("the folder holds no StyleInject file", file=folder, hint="Name a file or another folder.")


def _is_ours(path: Path) -> bool:
    try:
        return file_format.is_styleinject(read_safetensors(path))
    except SiHubError:
        return False


def _validate(file: Path) -> Adapter:
    try:
        adapter = file_format.validate(file)
    except NotStyleInject as error:
        raise NotStyleInject(
            error.problem, file=file, expected=error.expected, found=error.found, hint=_hint_at_making(file)
        ) from error
    check_home(file_format.read_document(read_safetensors(file)), adapter.metadata, file)
    return adapter


def _hint_at_making(file: Path) -> str:
    """What makes a StyleInject file of one that is none; what it is, where no conversion can."""
    try:
        found = rejection(read_safetensors(file).tensors)
    except SiHubError:
        found = None
    if found is None:
        return f"Convert it first: {call('convert', file)}"
    kind, _ = found
    return f"{file.name} is {kind.name}, and no adapter. {kind.hint()}".strip()


def _readme(path: Path) -> str | None:
    if path.is_symlink():
        raise UsageError("is a symbolic link", file=path, hint="Put the file itself there, or take it away.")
    if not path.exists():
        return None
    if path.is_file() and path.stat().st_size > card.CARD_LIMIT:
        raise CardError("is too long for a card", file=path, expected=f"at most {card.CARD_LIMIT} bytes")
    with os.fdopen(open_regular(path), "rb") as file:
        return card.decode(file.read(card.CARD_LIMIT + 1), str(path))


def _samples(folder: Path, left_out: dict[str, str]) -> Iterable[Outgoing]:
    if folder.is_symlink() or not folder.is_dir():
        if os.path.lexists(folder):
            left_out[SAMPLES] = "not a folder of pictures"
        return
    count = total = 0
    for entry in sorted(os.scandir(folder), key=lambda entry: _natural(entry.name)):
        name = f"{SAMPLES}/{entry.name}"
        if problem := _no_picture(entry):
            left_out[name] = problem
            continue
        size = entry.stat().st_size
        if count == MOST_SAMPLES or total + size > ALL_SAMPLES:
            left_out[name] = f"one too many: {MOST_SAMPLES} pictures and {ALL_SAMPLES // 1_000_000} MB go at most"
            continue
        count, total = count + 1, total + size
        yield prepare_file(name, Path(entry.path))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts ``2.png`` before ``10.png``."""
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d{0,18})", name)]


def _no_picture(entry: os.DirEntry[str]) -> str | None:
    kind = _PICTURES.get(Path(entry.name).suffix.lower())
    if entry.is_symlink() or not entry.is_file() or kind is None:
        return _why_not(entry)
    if not _NAME.fullmatch(entry.name):
        return "a name with other characters than letters, digits, '.', '_' and '-'"
    if entry.stat().st_size > LARGEST_SAMPLE:
        return f"over {LARGEST_SAMPLE // 1_000_000} MB"
    try:
        with os.fdopen(open_regular(Path(entry.path)), "rb") as file:
            return None if kind.match(file.read(16)) else "not the picture that its name says"
    except FileAccessError as error:
        return error.problem


def _why_not(entry: os.DirEntry[str]) -> str:
    """Why a file is none that is pushed."""
    suffix = Path(entry.name).suffix.lower()
    if entry.is_symlink():
        return "a symbolic link"
    if entry.is_dir():
        return "a folder"
    if not stat.S_ISREG(entry.stat().st_mode):
        return "not a regular file"
    if entry.name.startswith("."):
        return "hidden"
    if suffix in _PICKLES:
        return "a pickle, which can run any code"
    if entry.name == CONFIG:
        return "the repository's is written by si-hub"
    if suffix == ".safetensors":
        return "another adapter" if _is_ours(Path(entry.path)) else "not a StyleInject file"
    return "not a part of an adapter"


def _config(adapter: Adapter) -> Outgoing:
    """The file that the Hub counts downloads by: it only says what the repository is."""
    about = {"architecture": adapter.base_model.architecture, "format_version": file_format.FORMAT_VERSION}
    text = json.dumps({"library_name": "si-hub", "styleinject": {"weights": DEFAULT_NAME, **about}}, indent=2)
    return prepare_file(CONFIG, (text + "\n").encode())


def is_our_config(raw: bytes) -> bool:
    """Whether a repository's ``config.json`` is one that push wrote."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and data.get("library_name") == "si-hub" and "styleinject" in data
