"""What the numbers of an adapter's layers are stored as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from si_hub.adapter import Component
from si_hub.format.whole import DOWN, UP, whole_pair
from si_hub.storage.tensors import Tensor, torch_names

CORE = "core.weight"
#: Numbers of one byte with a scale for each rank; what is no pair is float16 beside them.
ONE_BYTE = "I8"
HALF, FULL = "F16", "F32"


def store(components: Mapping[str, Component], dtype: str) -> dict[str, Component]:
    """The same layers, their numbers stored as ``dtype`` (safetensors' name).

    Args:
        components: layers, each with at most one group.
        dtype: see `store_leaves`.
    """
    found = {}
    for name, component in components.items():
        layers = {
            path: replace(layer, tensors=store_leaves(layer.tensors, dtype)) for path, layer in component.layers.items()
        }
        found[name] = replace(component, layers=layers)
    return found


def store_leaves(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """A layer's leaves stored as ``dtype``: with `ONE_BYTE` its pair is whole numbers; routers stay what they are.

    A pair with a core is float16 there.
    """
    if dtype == ONE_BYTE and CORE in tensors:
        return store_leaves(tensors, HALF)
    kinds = {name: kind for kind, name in torch_names().items()}
    other = kinds[HALF if dtype == ONE_BYTE else dtype]
    found = {
        leaf: tensor if leaf.startswith("router.") else Tensor.from_torch(tensor.torch().to(other))
        for leaf, tensor in tensors.items()
        if dtype != ONE_BYTE or leaf not in (DOWN, UP)
    }
    if dtype == ONE_BYTE and UP in tensors:
        found[DOWN], found[UP] = whole_pair(tensors[DOWN].torch(), tensors[UP].torch())
    return found
