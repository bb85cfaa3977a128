"""An `Adapter` → a file: the same adapter gives the same bytes, on every run and machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from si_hub.adapter import Adapter
from si_hub.errors import BadTensorName, MissingTensor
from si_hub.format import document as documents
from si_hub.format.hashes import identity
from si_hub.format.layers import EMBEDDING, join_name, split_name
from si_hub.format.modelspec import derive
from si_hub.format.places import check_places
from si_hub.format.reader import check_adapter
from si_hub.format.versions import Document, check_version
from si_hub.format.whole import to_file
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import Digests, write_safetensors


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written.

    Attributes:
        path: where.
        size: bytes.
        tensors_sha256: SHA-256 of the data section, in hexadecimal.
        source_sha256: SHA-256 of ``hash_source``.
        identity: of the adapter, see `si_hub.format.identity`.
        document: as it stands in the file.
    """

    path: Path
    size: int
    tensors_sha256: str
    source_sha256: str | None
    identity: str
    document: Document


def write(
    adapter: Adapter,
    path: str | Path,
    *,
    overwrite: bool = False,
    check_finite: bool = True,
    hash_source: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Check an adapter and write it; tensors are streamed from where they are, the file appears whole or not at all.

    Args:
        adapter: what to write.
        path: the file.
        overwrite: whether an existing file may be replaced.
        check_finite: whether NaN or infinity is an error.
        hash_source: a file that is hashed at the same time; its hash goes into provenance.source.sha256.
        progress: called with (bytes done, bytes in all).

    Raises:
        DocumentError, DocumentTooLarge, MissingTensor, LayerShapeError, LeafDtypeError, BadTensorName, UnknownLeaf:
            the adapter breaks a rule of docs/FORMAT.md, or names a path of this machine; nothing is written.
        NotFinite: a tensor has NaN or infinity; nothing is written.
        MissingFile, FileAccessError, TruncatedFile: see `si_hub.storage.write.write_safetensors`.
    """
    path = Path(path)
    tensors = tensors_by_name(adapter, path)

    draft = documents.build_document(adapter, "0" * 64)

    def metadata(digests: Digests) -> dict[str, str]:
        document = with_digests(draft, digests)
        text = documents.canonical(document, path)
        return {**adapter.metadata, **derive(document), "format": "pt", documents.KEY: text}

    check_version(draft, path)
    check_places(draft, path)
    # Fields of a later version, kept from the file they came in, fit no strict schema that this library has.
    expected = with_digests(draft, Digests("0" * 64, "0" * 64 if hash_source else None))
    documents.check_schema(expected, strict="format_version" not in adapter.about, file=path)
    stored = write_safetensors(
        path, tensors, metadata, lead=(documents.KEY, "format"), overwrite=overwrite, check_finite=check_finite,
        hash_source=hash_source, progress=progress,
    )  # fmt: skip
    document = with_digests(draft, stored.digests)
    return Written(
        path, stored.size, stored.digests.tensors, stored.digests.source,
        identity(document, read_safetensors(path)), document,
    )  # fmt: skip


def with_digests(draft: Document, digests: Digests) -> Document:
    """A copy of the document with the given hashes filled in."""
    document = {**draft, "tensors_sha256": digests.tensors}
    if digests.source is not None:
        provenance = document.get("provenance", {})
        source = {**provenance.get("source", {}), "sha256": digests.source}
        document["provenance"] = {**provenance, "source": source}
    return document


def tensors_by_name(adapter: Adapter, file: Path | None = None) -> dict[str, Tensor]:
    """Every tensor of an adapter by its name in the file, alphas included; the adapter is checked first."""
    if not adapter.components:
        raise MissingTensor("the adapter has no components", file=file)
    check_adapter(adapter, file)
    tensors: dict[str, Tensor] = {}

    def add(component: str, module: str, leaf: str, tensor: Tensor) -> None:
        name = join_name(component, module, leaf)
        # A module path that looks like a leaf or an embedding would come back as something else.
        if split_name(name, file) != (component, module, leaf):
            raise BadTensorName("cannot be told from another name", file=file, key=name)
        tensors[name] = tensor

    for name, component in adapter.components.items():
        if not component.layers and not component.embeddings:
            raise MissingTensor("the component has no tensors", file=file, key=f"components.{name}")
        default = documents.default_alpha(component)
        for token, tensor in component.embeddings.items():
            add(name, token, EMBEDDING, tensor)
        for module, layer in component.layers.items():
            for leaf, tensor in to_file(layer.tensors).items():
                add(name, module, leaf, tensor)
            if layer.alpha is not None and layer.alpha != default:
                add(name, module, "alpha", documents.alpha_tensor(layer.alpha))
    return tensors
