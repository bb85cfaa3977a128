"""PyTorch's own files, opened so that no code in them runs, and refused in our words."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.errors import FormatError, TruncatedFile, UnsupportedFamily
from si_hub.storage.tensors import DTYPE_SIZES, FileState, Span, Tensor, torch_names

if TYPE_CHECKING:
    import torch

#: How torch names an object that it does not make: ``GLOBAL os.system``.
_OBJECT = re.compile(r"(?:GLOBAL|Unsupported class|global:?) +`?([A-Za-z_]\w*(?:\.\w+)+)")

#: Where torch notes in a stand-in's storage at which byte of its file it begins; before torch 2.7 it did not.
_OFFSET = "_checkpoint_offset"


def load_pickle(path: Path, refusal: type[FormatError] | type[UnsupportedFamily]) -> Any:
    """What a PyTorch file of tensors and plain values holds.

    Torch's own errors paste pages, with escape sequences and how to load such a file without protection. Of these only
    the name of the first object that is no tensor is worth telling.

    Raises:
        refusal: anything else is in it, or it is no such file.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = _OBJECT.search(str(error))
        found = named[1] if named else type(error).__name__
        rest = "which could run any code" if named else "or none"
        raise refusal(
            f"is a pickle of more than tensors, {rest}", file=path, found=found, hint="Save its tensors as safetensors."
        ) from None


def load_unread(path: Path, refusal: type[FormatError] | type[UnsupportedFamily]) -> Any:
    """As `load_pickle`, of a PyTorch archive; tensors are stand-ins without values, which `find_bytes` finds."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return load_pickle(path, refusal)


def find_bytes(value: torch.Tensor, path: Path, state: FileState) -> Tensor | None:
    """The bytes of a stand-in's numbers, from its first to its last as they lie in the file, as a flat tensor.

    ``None`` where this torch does not say where they are.

    Raises:
        TruncatedFile: the file ends before them.
    """
    begin = getattr(value.untyped_storage(), _OFFSET, None)
    if begin is None:
        return None
    dtype = torch_names()[value.dtype]
    steps = zip(value.shape, value.stride(), strict=True)
    count = 1 + sum((size - 1) * step for size, step in steps) if value.numel() else 0
    span = Span(path, begin + value.storage_offset() * DTYPE_SIZES[dtype], count * DTYPE_SIZES[dtype], state)
    if span.offset + span.length > state.size:
        raise TruncatedFile("ends before a tensor's numbers", file=path, expected=span.offset + span.length)
    return Tensor(dtype, (count,), (span,))
