"""Layers added up, each with its weight: exact, because an adapter adds to the base's output and nothing else.

Pairs are stacked rank by rank; gains, rotations and differences are summed, which are linear in what the base gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from si_hub.adapter import Layer
from si_hub.converters.dense import Difference, as_double
from si_hub.converters.folding import fold_core
from si_hub.errors import ConversionRefused
from si_hub.storage.tensors import Tensor

if TYPE_CHECKING:
    import torch

#: Leaves that are summed, and what of each is no change.
_SUMMED = {
    "weight_delta": 0.0, "bias_delta": 0.0, "param_delta": 0.0, "gain": 1.0, "gain_in": 1.0, "turn": 0.0,
    "turn_in": 0.0,
}  # fmt: skip
#: Leaves that no Kronecker product has a part in.
_BESIDE = {"gain", "gain_in", "turn", "turn_in", "bias_delta"}


def add_layers(key: str, terms: Sequence[tuple[Layer, float]], expand: Callable[[Layer], Difference]) -> Layer:
    """One layer that does what all do together.

    Args:
        key: the module, for messages.
        terms: layers of one branch and their weights.
        expand: gives the dense difference of a layer with a Kronecker product, which no other one is added to.

    Raises:
        ConversionRefused: rotations in blocks of different sizes.
    """
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]
    terms = [(fold_core(layer), weight) for layer, weight in terms]
    if any("kron" in layer.tensors for layer, _ in terms):
        terms = [(_expand(layer, expand) if "kron" in layer.tensors else layer, weight) for layer, weight in terms]
    tensors = _stack_pairs([(layer, weight) for layer, weight in terms if layer.rank])
    for leaf, idle in _SUMMED.items():
        held = [(layer.tensors[leaf], weight) for layer, weight in terms if leaf in layer.tensors]
        if held:
            tensors[leaf] = _sum(key, leaf, held, idle)
    return Layer(tensors, None, groups=max(layer.groups for layer, _ in terms))


def _expand(layer: Layer, expand: Callable[[Layer], Difference]) -> Layer:
    product = {
        leaf: layer.tensors[leaf]
        for leaf in layer.tensors.keys() - {"gain", "gain_in", "turn", "turn_in", "bias_delta"}
    }
    difference = expand(Layer(product, layer.alpha)).weight
    assert difference is not None, "a Kronecker product changes a weight"
    values = difference().float()
    rest = {leaf: tensor for leaf, tensor in layer.tensors.items() if leaf not in product}
    return Layer({**rest, "weight_delta": Tensor.from_torch(values)})


def _stack_pairs(terms: Sequence[tuple[Layer, float]]) -> dict[str, Tensor]:
    """Ranks one after another; scales and weights are in ``up``, float32."""
    if not terms:
        return {}
    if any(layer.groups > 1 for layer, _ in terms):
        raise ConversionRefused("pairs of a grouped convolution are not stacked", hint="Leave that layer out")
    downs = [layer.tensors["down.weight"] for layer, _ in terms]
    if len({down.dtype for down in downs}) > 1 or len({down.shape[1:] for down in downs}) > 1:
        shape = max((down.shape[1:] for down in downs), key=len)
        downs = [_single(down.reshape(down.shape[0], *shape)) for down in downs]
    ups = [(layer.tensors["up.weight"], weight * layer.scale) for layer, weight in terms]
    rank = sum(up.shape[1] for up, _ in ups)

    def join() -> torch.Tensor:
        import torch

        return torch.cat([as_double(up) * scale for up, scale in ups], 1)

    return {"down.weight": Tensor.concatenate(downs), "up.weight": Tensor.compute((ups[0][0].shape[0], rank), join)}


def _single(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == "F32" else Tensor.compute(tensor.shape, lambda: as_double(tensor))


def _sum(key: str, leaf: str, held: Sequence[tuple[Tensor, float]], idle: float) -> Tensor:
    """``idle`` and the weighted changes from it."""
    shape = held[0][0].shape
    if any(
        tensor.count != held[0][0].count or (leaf.startswith("turn") and tensor.shape != shape) for tensor, _ in held
    ):
        raise ConversionRefused(
            f"has a {leaf} in blocks of other sizes", key=key, expected=list(shape),
            found=[list(tensor.shape) for tensor, _ in held[1:]], hint="Make pairs of it first",
        )  # fmt: skip

    def add() -> torch.Tensor:
        parts = [(as_double(tensor).reshape(shape) - idle) * weight for tensor, weight in held]
        return sum(parts[1:], parts[0]) + idle

    return Tensor.compute(shape, add)


def as_branches(layers: Sequence[Layer | None], shape: tuple[int, ...], router: Sequence[float]) -> Layer:
    """Pairs as branches of one layer: each has its own ranks of a shared ``up``, and zeros for the others'.

    Args:
        layers: of each branch, of pairs alone; None where a branch has none here.
        shape: of the base module's weight.
        router: logits of the mix that acts while no style is chosen.
    """
    import torch

    held = [layer for layer in layers if layer is not None]
    rank = sum(layer.rank for layer in held)
    downs = torch.zeros(len(layers), rank, *shape[1:])
    ups = []
    at = 0
    for branch, layer in enumerate(layers):
        if layer is None:
            continue
        own = layer.tensors["down.weight"].torch().double().reshape(layer.rank, *shape[1:]) * layer.scale
        downs[branch, at : at + layer.rank] = own.float()
        ups.append(layer.tensors["up.weight"].torch().float())
        at += layer.rank
    bias = torch.tensor(list(router), dtype=torch.float32)
    leaves: Mapping[str, torch.Tensor] = {
        "down.weight": downs.flatten(0, 1), "up.weight": torch.cat(ups, 1), "router.bias": bias,
    }  # fmt: skip
    return Layer({leaf: Tensor.from_torch(value) for leaf, value in leaves.items()}, float(rank))
