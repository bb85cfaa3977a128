"""What an adapter's file costs: each part before it is chosen, and the whole before it is written.

A file is its numbers, an entry in the header for every tensor, and the document. What parts are chosen by is an
estimate, a little too much rather than too little; `adapter_bytes` is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from si_hub.adapter import Adapter
from si_hub.distill.running.storing import HALF, ONE_BYTE
from si_hub.format import document as documents
from si_hub.format.modelspec import derive
from si_hub.format.writer import tensors_by_name
from si_hub.storage.tensors import DTYPE_SIZES
from si_hub.storage.write import header_bytes

#: Bytes of a tensor's entry in the header besides its name, at most.
ENTRY = 90
#: Bytes of an entry with its name, where the names are not known.
TYPICAL_ENTRY = 150
#: Bytes of a file's document and metadata, about: of one tuned model, of several, and the field of a training.
DOCUMENT, DOCUMENT_OF_SEVERAL, TRAINING = 3 << 10, 8 << 10, 1 << 11
#: Bytes that the hash of the source adds to the document when the file is written, at most.
SOURCE_HASH = 128
#: Letters of a leaf's name behind the module's, at most: of one branch, and where there is a router. What has no second
#: try at a size takes a few more.
LEAF, ROUTED_LEAF, GENEROUS_LEAF = len(".weight_delta"), 16, 20


@dataclass(frozen=True, slots=True)
class Price:
    """What the parts of an adapter cost.

    Attributes:
        dtype: safetensors' name of its numbers; ``None`` counts numbers in place of bytes, and headers for nothing.
    """

    dtype: str | None

    @property
    def item(self) -> int:
        """Of one number that is in no pair."""
        return 1 if self.dtype is None else DTYPE_SIZES[HALF if self.dtype == ONE_BYTE else self.dtype]

    @property
    def paired(self) -> int:
        """Of one number of a pair."""
        return 1 if self.dtype is None else DTYPE_SIZES[self.dtype]

    @property
    def _scale(self) -> int:
        """Of what each row of down has besides."""
        return DTYPE_SIZES["F32"] if self.dtype == ONE_BYTE else 0

    def entries(self, name: str, count: int = 1, leaf: int = LEAF) -> int:
        """Of the header's entries of a module's tensors.

        Args:
            name: ``component.module``.
            count: how many tensors.
            leaf: letters of a leaf's name.
        """
        return 0 if self.dtype is None else count * (len(name) + leaf + ENTRY)

    def pair(self, name: str, leaf: int = LEAF) -> int:
        """Of the header's entries of a module's up and down, and of their scale where they have one."""
        return self.entries(name, 3 if self.dtype == ONE_BYTE else 2, leaf)

    def rank(self, out: int, width: int, branches: int = 1) -> int:
        """Of one rank of a layer: a column of up, and a row of down for each branch."""
        return self.paired * (out + branches * width) + self._scale * branches

    def cored(self, name: str, directions: int, width: int) -> int:
        """Of what the pieces of a convolution share that see so many directions of its ``width`` inputs."""
        return self.entries(name, 3) + self.item * directions * width

    def core(self, out: int, numbers: int) -> int:
        """Of one such piece: a column of up, and a core of so many numbers."""
        return self.item * (out + numbers)

    def router(self, name: str, leaves: int, numbers: int) -> int:
        """Of a layer's entries, where besides up and down it has ``leaves`` of a router with float32 ``numbers``."""
        if self.dtype is None:
            return 0
        return self.entries(name, leaves, ROUTED_LEAF) + self.pair(name, ROUTED_LEAF) + DTYPE_SIZES["F32"] * numbers


def adapter_bytes(adapter: Adapter) -> int:
    """Bytes of the file that `si_hub.format.write` makes of an adapter, but for `SOURCE_HASH` where that is asked for.

    Raises:
        DocumentError, MissingTensor and others: the adapter breaks a rule of the format.
    """
    document = documents.build_document(adapter, "0" * 64)
    metadata = {
        **adapter.metadata, **derive(document), "format": "pt", documents.KEY: documents.canonical(document),
    }  # fmt: skip
    tensors = tensors_by_name(adapter)
    ordered = dict(sorted(tensors.items(), key=lambda item: (-DTYPE_SIZES[item[1].dtype], item[0])))
    return len(header_bytes(ordered, metadata)) + sum(tensor.nbytes for tensor in ordered.values())
