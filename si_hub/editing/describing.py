"""`edit`: what a file says of itself, in a new header before the same bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub import format as file_format
from si_hub.errors import FileAccessError, FormatError, UsageError
from si_hub.foreign import join_safely, make_safe
from si_hub.format.modelspec import SPEC_VERSION
from si_hub.storage.access import tell_access_errors
from si_hub.storage.files import atomic_file
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.storage.tensors import CHUNK, Span, Tensor
from si_hub.storage.write import header_bytes
from si_hub.words import label, option, rename_keywords, switch

#: Fields of a document → what other programs' headers call them.
_FOREIGN = {
    "title": "title",
    "author": "author",
    "license": "license",
    "trigger_words": "trigger_phrase",
    "tags": "tags",
}
_THUMBNAIL = "modelspec.thumbnail"
#: How the pictures begin that programs show, and what they are.
_PICTURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}
#: Bytes of a preview at most: whoever looks at a file reads its header whole.
PREVIEW_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Described:
    """A file with another header.

    Attributes:
        source, path: the file read and the one written, which may be the same.
        changes: the fields that are otherwise now, as (before, now).
        is_ours: whether it is a StyleInject file.
        written: whether it is; it is not by ``dry_run``, or where nothing changes.
    """

    source: Path
    path: Path
    changes: dict[str, tuple[Any, Any]]
    is_ours: bool
    written: bool

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "source": str(self.source), "path": str(self.path), "written": self.written,
            "kind": "styleinject" if self.is_ours else "foreign",
            "changes": {name: {"before": old, "now": new} for name, (old, new) in self.changes.items()},
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        return join_safely([
            f"{self.path}{'' if self.written else ': nothing is written'}",
            *(f"  {name:<16} {_show(old)} -> {_show(new)}" for name, (old, new) in self.changes.items()),
            *([] if self.changes else ["  says that already"]),
        ])  # fmt: skip


def _show(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value or "nothing")
    return f"a picture, {len(text)} letters" if text.startswith("data:image/") else make_safe(text, 80)


@tell_access_errors()
@rename_keywords(overwrite="force")
def edit(
    source: str | Path,
    output: str | Path | None = None,
    *,
    title: str | None = None,
    author: str | None = None,
    license: str | None = None,
    trigger_words: Sequence[str] | None = None,
    preview_prompts: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    preview: str | Path | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Described:
    """Change what a file says of itself; its tensors are copied byte for byte, and their hashes stay.

    An adapter's identity does not depend on these fields. In a foreign safetensors file they are ``modelspec.*`` keys,
    which user interfaces show.

    Args:
        source: a StyleInject file, or any other safetensors file.
        output: the file to write; by default the source itself, anew.
        title, author, license, trigger_words, preview_prompts, tags: what it says; an empty text or list takes it away.
        preview: a PNG, JPEG or WebP picture of 1 MiB at most to show with the file; the empty text takes it away.
        force: replace an existing output.
        dry_run: say what would change.

    Raises:
        UsageError: nothing to change.
        FileAccessError: the output exists.
        ChecksumError: the file is damaged: a new header would hide it.
        FormatError: a file that is none; a preview that is no such picture, or too large.
    """
    file = Path(source)
    path = file if output is None else Path(output)
    if path.is_dir():
        path /= file.name
    wanted: dict[str, Any] = {"title": title, "author": author, "license": license}
    lists = {"trigger_words": trigger_words, "preview_prompts": preview_prompts, "tags": tags}
    wanted |= {name: None if values is None else [text for text in values if text] for name, values in lists.items()}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if not wanted and preview is None:
        raise UsageError("say what to change", key=label("title"), hint=f"Such as {option('title', 'TEXT')}.")
    if path.exists() and path.resolve() != file.resolve() and not force:
        raise FileAccessError(
            "already exists", file=path,
            hint=f"Overwrite it with {switch('force')}, or name another with {option('output')}.",
        )  # fmt: skip
    picture = None if preview is None else read_preview(preview)
    opened = read_safetensors(file)
    write = _edit_ours if file_format.is_styleinject(opened) else _edit_foreign
    changes, finish = write(opened, path, wanted, picture)
    is_written = bool(changes or path != file) and not dry_run
    if is_written:
        finish()
    return Described(file, path, changes, write is _edit_ours, is_written)


def read_preview(picture: str | Path) -> str:
    """A picture as the text that a header holds; empty for none.

    Raises:
        FormatError: no PNG, JPEG or WebP, or more than `PREVIEW_LIMIT` bytes.
        MissingFile, FileAccessError: no such file, no access.
    """
    if not str(picture):
        return ""
    path = Path(picture)
    with path.open("rb") as file:
        data = file.read(PREVIEW_LIMIT + 1)
    kind = next((kind for start, kind in _PICTURES.items() if data.startswith(start)), None)
    if kind is None or (kind == "webp" and data[8:12] != b"WEBP"):
        raise FormatError("is no picture that programs show", file=path, expected="PNG, JPEG or WebP")
    if len(data) > PREVIEW_LIMIT:
        raise FormatError("is too large for a header", file=path, expected=f"at most {PREVIEW_LIMIT} bytes",
                          found=path.stat().st_size, hint="Make it smaller: 512 pixels are enough.")  # fmt: skip
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


#: What is otherwise, and what writes it.
_Plan = tuple[dict[str, tuple[Any, Any]], Callable[[], object]]


def _edit_ours(opened: SafetensorsFile, path: Path, wanted: Mapping[str, Any], picture: str | None) -> _Plan:
    adapter = file_format.read(opened.path, verify=True)
    changes = _put(adapter.about, wanted) | _put(adapter.metadata, {} if picture is None else {_THUMBNAIL: picture})
    return changes, lambda: file_format.write(adapter, path, overwrite=True)


def _edit_foreign(opened: SafetensorsFile, path: Path, wanted: Mapping[str, Any], picture: str | None) -> _Plan:
    if "preview_prompts" in wanted:
        raise UsageError("only a StyleInject file says prompts", key=label("preview_prompts"), file=opened.path)
    metadata = dict(opened.metadata)
    said = {
        f"modelspec.{_FOREIGN[name]}": ", ".join(value) if isinstance(value, list) else value
        for name, value in wanted.items()
    }
    changes = _put(metadata, said if picture is None else said | {_THUMBNAIL: picture})
    metadata.setdefault("modelspec.sai_model_spec", SPEC_VERSION)
    return changes, lambda: _rewrite_header(opened, path, metadata)


def _put(table: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Write the fields that are otherwise, take away those that are empty."""
    changes = {}
    for name, value in wanted.items():
        old = table.get(name)
        if (value or None) != (old or None):
            changes[name] = old, value or None
        if value:
            table[name] = value
        else:
            table.pop(name, None)
    return changes


def _rewrite_header(opened: SafetensorsFile, path: Path, metadata: Mapping[str, str]) -> None:
    """The data section as it lies, behind a header of these metadata: hashes of it stay right."""
    ordered = dict(sorted(opened.tensors.items(), key=lambda item: _place(item[1])))
    header = header_bytes(ordered, metadata)
    with atomic_file(path, True) as file:
        file.write(header)
        for chunk in Span(opened.path, opened.data_start, opened.size - opened.data_start).chunks(CHUNK):
            file.write(chunk)


def _place(tensor: Tensor) -> tuple[int, int]:
    [span] = tensor.pieces
    assert isinstance(span, Span), "what a header says is a part of the file"
    return span.offset, span.length
