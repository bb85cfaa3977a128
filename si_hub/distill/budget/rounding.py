"""Numbers of an adapter in fewer bytes, wherever the error that this adds does not count."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from si_hub.adapter import Component
from si_hub.distill.running.storing import FULL, HALF, store

#: What numbers are stored as where nobody says: the first that costs little enough.
LADDER = (HALF, FULL)
#: Share of its error that an adapter may gain by being stored in fewer bytes.
ROUNDING_COST = 0.01


def costs_little(
    components: Mapping[str, Component], dtype: str, error: Callable[[Mapping[str, Component]], float]
) -> bool:
    """Whether layers in float32 may be stored as a dtype: what that adds is at most `ROUNDING_COST` of their error.

    Args:
        components: in float32.
        dtype: safetensors' name, or `si_hub.distill.running.storing.ONE_BYTE`.
        error: measures layers.
    """
    if dtype == FULL:
        return True
    stored = store(components, dtype)
    return overflow(stored) is None and error(stored) <= (1.0 + ROUNDING_COST) * error(components)


def overflow(components: Mapping[str, Component]) -> str | None:
    """The first leaf with a number that is none in its dtype; ``None`` where they all are."""
    for name, component in components.items():
        for path, layer in component.layers.items():
            for leaf, tensor in layer.tensors.items():
                if not bool(tensor.torch().isfinite().all()):
                    return f"{name}.{path}.{leaf}"
    return None
