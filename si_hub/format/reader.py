"""A file → an `Adapter` whose tensors are spans of the file: nothing is loaded until it is used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from si_hub.adapter import Adapter, Component, Layer
from si_hub.errors import DocumentError, LayerShapeError, LeafDtypeError, MissingTensor, NotFinite
from si_hub.format import document as documents
from si_hub.format.hashes import check_data
from si_hub.format.layers import EMBEDDING, ROWS_LIMIT, Tensors, check_embedding, check_layer, gather, join_name
from si_hub.format.modelspec import derive
from si_hub.format.versions import Document, check_version, migrate
from si_hub.format.whole import from_file
from si_hub.schedule import SCHEDULE, read_schedule
from si_hub.storage.finite import count_bad
from si_hub.storage.header import SafetensorsFile, check_count, read_safetensors
from si_hub.storage.tensors import Tensor


def is_styleinject(file: SafetensorsFile) -> bool:
    """Whether the file carries a StyleInject document, good or bad."""
    return documents.KEY in file.metadata


def read_document(file: SafetensorsFile) -> Document:
    """The document as it stands in the file, its version checked; its schema is not (that takes an import of 0.1 s).

    Raises:
        NotStyleInject, DocumentTooLarge, HeaderSyntaxError and its kin, DuplicateKey, DocumentError: the text.
        UnsupportedVersion: a higher major version, or a feature this library does not have.
    """
    if not is_styleinject(file):
        raise documents.not_styleinject(file.path)
    document = documents.parse_document(file.metadata[documents.KEY], file.path)
    check_version(document, file.path)
    return document


def read(path: str | Path, *, verify: bool = False) -> Adapter:
    """Read an adapter; tensors are spans of the file, only scalar alphas are loaded.

    Fields that this library does not know are kept, with a `FormatWarning`.

    Args:
        path: the file.
        verify: whether to hash the data section and look for NaN, which reads the whole file.

    Raises:
        FormatError: the subclass says which rule of docs/FORMAT.md the file breaks.
        ChecksumError: with ``verify``.
        MissingFile, FileAccessError: no such file, no access.
    """
    file = read_safetensors(path)
    adapter = parse_adapter(file)
    if verify:
        check_data(file, read_document(file)["tensors_sha256"])
        check_file_finite(file)
    return adapter


def parse_adapter(file: SafetensorsFile) -> Adapter:
    """The adapter in a file whose header is parsed; or in tensors and metadata that never were in a file.

    Raises:
        FormatError: see `read`.
    """
    check_count(file)
    document = migrate(read_document(file))
    unknown = documents.find_unknown(document, file.path)
    adapter = _adapter(file, document, bool(unknown))
    if unknown:
        documents.warn_unknown(unknown, file.path)
    return adapter


def check_file_finite(file: SafetensorsFile) -> None:
    """Look for NaN and infinity in every tensor.

    Raises:
        NotFinite: names the tensor and how many of its numbers are bad.
    """
    for name, tensor in file.tensors.items():
        bad = sum(count_bad(tensor.dtype, chunk) for chunk in tensor.chunks())
        if bad:
            raise NotFinite(f"{bad} of {tensor.count} numbers are NaN or infinite", file=file.path, key=name)


def _adapter(file: SafetensorsFile, document: Document, unknown: bool) -> Adapter:
    found = gather(file.tensors, file.path)
    described = document["components"]
    for name in found.keys() - described.keys():
        raise DocumentError(f"does not describe the component {name}", file=file.path, key="components")
    for name in described.keys() - found.keys():
        raise MissingTensor("the component has no tensors", file=file.path, key=f"components.{name}")
    branches = tuple(document.get("branches", ()))
    derived = derive(document)
    adapter = Adapter(
        base_model=documents.base_model_of(document),
        components={
            name: _component(name, found[name], described[name], document.get("requires", ()), file.path)
            for name in described
        },
        branches=branches,
        about=documents.about_of(document, unknown),
        metadata={
            key: text
            for key, text in file.metadata.items()
            if key not in (documents.KEY, "format") and key not in derived
        },
    )
    check_adapter(adapter, file.path)
    if SCHEDULE in adapter.about and SCHEDULE not in document.get("requires", ()):
        raise DocumentError("does not name the feature that it uses", file=file.path, key="requires", expected=SCHEDULE)
    return adapter


def _component(name: str, tensors: Tensors, described: Document, required: Iterable[str], file: Path) -> Component:
    component = Component(described.get("class_name"), embeddings=tensors.embeddings)
    for module, leaves in tensors.layers.items():
        held = {leaf: tensor for leaf, tensor in leaves.items() if leaf != "alpha"}
        component.layers[module] = Layer(from_file(held, f"{name}.{module}", required, file))
    documents.settle_settings(component, described, name, file)
    for module, leaves in tensors.layers.items():
        layer = component.layers[module]
        key = join_name(name, module, "alpha")
        if "alpha" in leaves:
            if "up.weight" not in leaves:
                raise MissingTensor("alpha scales a low-rank pair that is not there", file=file, key=key)
            layer.alpha = _alpha(leaves["alpha"], key, file)
        elif "up.weight" in leaves and described["alpha"] is not None:
            layer.alpha = float(described["alpha"])
    return component


def _alpha(tensor: Tensor, key: str, file: Path) -> float:
    if tensor.dtype not in ("F32", "F64"):
        raise LeafDtypeError("alpha has another dtype", file=file, key=key, expected="F32 or F64", found=tensor.dtype)
    if tensor.shape:
        raise LayerShapeError("alpha is a scalar", file=file, key=key, expected=[], found=list(tensor.shape))
    return tensor.item()


def check_adapter(adapter: Adapter, file: Path | None = None) -> None:
    """The rules that neither the schema nor one tensor can state; writers and readers share them.

    Raises:
        MissingTensor, LayerShapeError, LeafDtypeError, UnknownLeaf: a layer.
        DocumentError: branch names that do not fit the layers, settings without meaning.
    """
    read_schedule(adapter.about, adapter.branches, file)
    for name, component in adapter.components.items():
        if (rows := sum(tensor.shape[0] for tensor in component.embeddings.values() if tensor.shape)) > ROWS_LIMIT:
            raise LayerShapeError(
                "more vectors than any textual inversions have", file=file, key=f"{name}.{EMBEDDING}",
                expected=f"at most {ROWS_LIMIT} rows", found=rows,
            )  # fmt: skip
        for token, tensor in component.embeddings.items():
            check_embedding(tensor, join_name(name, token, EMBEDDING), file)
        for module, layer in component.layers.items():
            check_layer(layer, f"{name}.{module}", file)
            documents.check_alpha(layer, f"{name}.{module}", file)
            if adapter.branches and layer.rank and layer.branches != len(adapter.branches):
                raise DocumentError(
                    f"names {len(adapter.branches)} branches, {name}.{module} has another number", file=file,
                    key="branches", expected=len(adapter.branches), found=layer.branches,
                )  # fmt: skip
