"""Textual inversions that ride along with an adapter: the text encoder whose embeddings have their width."""

from __future__ import annotations

from si_hub.architectures import Architecture
from si_hub.converters.detect.grouping import Grouped
from si_hub.converters.source import Source
from si_hub.storage.tensors import Tensor

#: What a bundle calls the encoder → the components that this can be.
_ENCODERS = {"clip_l": ("text_encoder",), "clip_g": ("text_encoder_2",), "t5xxl": ("text_encoder_3", "text_encoder_2")}


def place_embeddings(source: Source, grouped: Grouped, architecture: Architecture) -> dict[str, tuple[str, str | None]]:
    """Tensor name → (token, text encoder); ``None`` where none of the base model's fits it."""
    return {
        name: (token, _find_encoder(architecture, kind, source.tensors[name]))
        for name, (token, kind) in grouped.embeddings.items()
    }


def _find_encoder(architecture: Architecture, kind: str, tensor: Tensor) -> str | None:
    for name, model in architecture.components.items():
        tables = (module for module in model.modules.values() if module.kind == "embedding")
        fits = any(table.shape[1:] == tensor.shape[-1:] for table in tables) and len(tensor.shape) in (1, 2)
        if fits and name in _ENCODERS.get(kind, (name,)):
            return name
    return None
