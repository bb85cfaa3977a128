"""Hashes: the integrity of a file's data section, and the identity of the adapter in it."""

from __future__ import annotations

import hashlib
from typing import Any

from si_hub.errors import ChecksumError
from si_hub.format.versions import Document
from si_hub.storage.header import SafetensorsFile
from si_hub.storage.tensors import Span, Tensor


def identity(document: Document, file: SafetensorsFile) -> str:
    """SHA-256 of the canonical JSON of {components, branches, tensor table, tensors_sha256}.

    Two files with one identity act the same; title, author and everything else about the adapter may differ.
    """
    import rfc8785

    return hashlib.sha256(
        rfc8785.dumps(
            {
                "branches": document.get("branches", []),
                "components": document["components"],
                "tensors": tensor_table(file),
                "tensors_sha256": document["tensors_sha256"],
            }
        )
    ).hexdigest()


def tensor_table(file: SafetensorsFile) -> dict[str, Any]:
    """The header's table as the file has it: name → dtype, shape, data_offsets."""

    def offsets(tensor: Tensor) -> list[int]:
        (span,) = tensor.pieces
        if not isinstance(span, Span):
            raise ValueError(f"{file.path} was never a file: its tensors have no offsets")
        return [span.offset - file.data_start, span.offset - file.data_start + span.length]

    return {
        name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets(tensor)}
        for name, tensor in file.tensors.items()
    }


def check_data(file: SafetensorsFile, expected: str) -> None:
    """Hash the data section.

    Raises:
        ChecksumError: it is not what the document promises.
    """
    digest = hashlib.sha256()
    for chunk in Span(file.path, file.data_start, file.size - file.data_start).chunks():
        digest.update(chunk)
    if digest.hexdigest() != expected:
        raise ChecksumError(
            "the tensors are not those that were written", file=file.path, key="tensors_sha256",
            expected=expected, found=digest.hexdigest(), hint="Download the file again.",
        )  # fmt: skip
