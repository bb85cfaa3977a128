"""The safetensors header, read by hand under limits before a single tensor is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from si_hub.storage.tensors import Tensor


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """What the header of a safetensors file says: metadata, and every tensor as a span of the file."""

    path: Path
    size: int
    header_size: int
    metadata: dict[str, str]
    tensors: dict[str, Tensor]
