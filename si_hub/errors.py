"""Every error a user can meet: what was wrong, where, and what to do next.

Each error is one line of text and one process exit code. Errors are also the builtin exception a Python
programmer would expect (``ValueError``, ``FileNotFoundError`` ...), so that ``except ValueError`` keeps working.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from si_hub.foreign import make_safe

#: Characters of a name or value in an error, and of its file, its sentence and its hint.
_VALUE, _SENTENCE = 410, 1500


class SiHubError(Exception):
    """Root of the tree.

    Args:
        problem: what is wrong, as a sentence without the file's or key's name.
        file: the file it is about.
        key: the tensor name, metadata key or field it is about.
        expected: what would have been right.
        found: what was there instead.
        hint: the next thing to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        key: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else str(file)
        self.key = key
        self.expected = expected
        self.found = found
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        where = [
            make_safe(part, limit, keep_end=True)
            for part, limit in ((self.file, _SENTENCE), (self.key, _VALUE))
            if part
        ]
        detail = [
            f"{label} {make_safe(value, _VALUE, keep_end=True)}"
            for label, value in (("expected", self.expected), ("found", self.found))
            if value is not None
        ]
        text = ": ".join([*where, make_safe(self.problem, _SENTENCE)])
        if detail:
            text += f" ({', '.join(detail)})"
        return f"{text}. {make_safe(self.hint, _SENTENCE, keep_end=True)}" if self.hint else text

    def as_dict(self) -> dict[str, object]:
        """The error for ``--json``: its type and every field that is set; file and key are whole, and as they are."""
        fields = {
            "error": type(self).__name__,
            "problem": self.problem,
            "file": self.file,
            "key": self.key,
            "expected": None if self.expected is None else make_safe(self.expected, _SENTENCE, keep_end=True),
            "found": None if self.found is None else make_safe(self.found, _SENTENCE, keep_end=True),
            "hint": self.hint,
            "exit_code": self.exit_code,
        }
        return {name: value for name, value in fields.items() if value is not None}


class FormatWarning(UserWarning):
    """A file that loads, but holds fields this library does not know; they are kept and written back."""


class HubWarning(UserWarning):
    """The Hub could not be asked, and the cache answered for it."""


class UsageError(SiHubError, ValueError):
    """The call itself makes no sense: an unknown option, name or combination."""

    exit_code = 2


class FormatError(SiHubError, ValueError):
    """The bytes of a file break a rule of its format."""

    exit_code = 3


class ConversionRefused(SiHubError, ValueError):
    """A conversion that could not be exact, and was not asked to be approximate."""

    exit_code = 4


class BaseMismatch(SiHubError, ValueError):
    """The adapter and the base model do not fit: unknown modules, other shapes, no key matched."""

    exit_code = 5


class NumberOverflow(BaseMismatch):
    """A finite number of the adapter that the base model's dtype cannot hold."""


class ChecksumError(SiHubError, ValueError):
    """Bytes that are not those that were promised."""

    exit_code = 6


class MissingFile(SiHubError, FileNotFoundError):
    """A file, folder or cached repository that is not there."""

    exit_code = 7


class FileAccessError(SiHubError, OSError):
    """No permission, no space, or a file in the way that was not asked to be overwritten."""

    exit_code = 8


# The storage room: one error per rule that a safetensors header can break.


class NotSafetensors(FormatError):
    """Empty, too short, a pickle, an archive: not a safetensors file at all."""


class TruncatedFile(FormatError):
    """The file ends before its header or its data does."""


class HeaderTooLarge(FormatError):
    """A header larger than any real adapter's or checkpoint's."""


class HeaderSyntaxError(FormatError):
    """The header is not UTF-8, not JSON, too deep, or not a JSON object."""


class NotUtf8(HeaderSyntaxError):
    """Text that UTF-8 cannot hold."""


class NonFiniteNumber(HeaderSyntaxError):
    """NaN or Infinity where JSON has no such number."""


class TooDeep(HeaderSyntaxError):
    """JSON nested deeper than any real header or document."""


class DuplicateKey(FormatError):
    """The same name twice in one JSON object."""


class BadMetadata(FormatError):
    """``__metadata__`` is not a table of text to text."""


class BadTensorEntry(FormatError):
    """A tensor's entry lacks dtype, shape or data_offsets, or has the wrong kind of value there."""


class ImpossibleShape(BadTensorEntry):
    """A shape with more axes or more bytes than any machine can address."""


class UnknownDtype(FormatError):
    """A dtype that safetensors does not define."""


class ShapeSizeMismatch(FormatError):
    """dtype × shape does not give the number of bytes that data_offsets gives."""


class OverlappingTensors(FormatError):
    """Two tensors claim the same bytes."""


class UnclaimedBytes(FormatError):
    """A hole between tensors, or bytes behind the last one."""


class NotFinite(FormatError):
    """NaN or infinity in a tensor."""


# The format room: the document and the tensors of a StyleInject adapter.


class NotStyleInject(FormatError):
    """A well-formed safetensors file that carries no StyleInject document."""


class DocumentError(FormatError):
    """The document breaks its JSON Schema or a rule no schema can state."""


class DocumentTooLarge(FormatError):
    """A document over 64 KiB."""


class UnsupportedVersion(FormatError):
    """A major version this library does not know, or a required feature it does not have."""


class UnknownLeaf(FormatError):
    """A tensor whose name ends in no leaf of the format."""


class BadTensorName(FormatError):
    """A tensor name that is not ``{component}.{module path}.{leaf}``: empty or unsafe segments, no module path."""


class LeafDtypeError(FormatError):
    """A tensor of the format that is not floating point."""


class LayerShapeError(FormatError):
    """Tensors of one layer whose shapes contradict each other."""


class MissingTensor(FormatError):
    """A layer without a tensor that it needs."""


# The tuner's room.


class UnknownField(DocumentError, TypeError):
    """A configuration with a field this library does not know; a keyword that a call does not have is a TypeError."""


# The converters' room.


class UnknownFamily(FormatError):
    """No converter recognises the file."""


class AmbiguousFamily(FormatError):
    """More than one converter, or more than one base model, claims the file."""


class UnsupportedFamily(ConversionRefused):
    """Recognised, and refused with the reason: an adapter of an unsupported family."""


class NotAnAdapter(UnsupportedFamily):
    """Recognised as something else: a checkpoint, a ControlNet.

    Args:
        kind: what it is, with its article.
        file, key, hint: as for every `SiHubError`.
    """

    def __init__(self, kind: str, *, file: str | Path, key: str, hint: str | None = None) -> None:
        self.kind = kind
        super().__init__(f"is {kind}, which cannot be converted", file=file, key=key, hint=hint)


# The Hub's room. What is not there is a MissingFile, what cannot be true is a FormatError.


class MissingRepository(MissingFile):
    """No such repository, or none that this token may see: the Hub answers both alike."""


class MissingRevision(MissingFile):
    """The repository has no such branch, tag or commit."""


class MissingEntry(MissingFile):
    """The commit has no such file."""


class BadListing(FormatError):
    """What the Hub says about a repository cannot be true or safe: names, sizes or hashes that no honest one has."""


class AuthError(SiHubError, PermissionError):
    """No token, a bad one, or one that may not do this."""

    exit_code = 9


class GatedRepository(SiHubError, PermissionError):
    """The repository's owner has to grant access first."""

    exit_code = 10


class RateLimited(SiHubError, ConnectionError):
    """The Hub wants fewer requests, for longer than is worth waiting."""

    exit_code = 11


class NetworkError(SiHubError, ConnectionError):
    """The Hub cannot be reached, or gives no answer that makes sense, however often it is asked."""

    exit_code = 12


class ConflictError(SiHubError, ValueError):
    """The repository has changed meanwhile, or holds already what was to be made."""

    exit_code = 13


# The hub's room.


class CardError(FormatError):
    """A model card (README.md) whose text or front matter cannot be renewed without touching the user's words."""


# The distiller's room.


class NotAModel(ConversionRefused):
    """Recognised as something else than a whole model: a LoRA, a ControlNet, an autoencoder alone."""


class WrongPair(BaseMismatch):
    """Base and tuned model that do not belong together: another architecture, ancestor or prediction, or no change."""


class CannotRun(ConversionRefused):
    """A base model whose pipeline would have to run for what was asked, and cannot."""
