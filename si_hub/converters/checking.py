"""The proof of a conversion: what each layer does by docs/FORMAT.md, against what its source does by its definition.

Both are dense differences in float64, and neither is computed from the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from si_hub.adapter import Adapter, Layer
from si_hub.architectures import Architecture
from si_hub.architectures.layouts import Part
from si_hub.converters.dense import BaseModule, Difference, Weights, as_double
from si_hub.converters.families.contract import Target
from si_hub.converters.families.shapes import along
from si_hub.converters.folding import multiply_core
from si_hub.errors import UnsupportedFamily
from si_hub.storage.tensors import Tensor
from si_hub.words import option

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Check:
    """What a check found.

    Attributes:
        modules: how many layers were recomputed.
        largest_error: the largest relative error, ‖ΔW_result - ΔW_source‖ / ‖ΔW_source‖ in the Frobenius norm, the
            bias counted in.
        module: the layer with that error.
    """

    modules: int = 0
    largest_error: float = 0.0
    module: str = ""

    def add(self, module: str, found: Difference, expected: Difference) -> None:
        """Count one layer."""
        self.count(module, measure_error(found, expected))

    def count(self, module: str, error: float) -> None:
        """Count one layer whose relative error is known."""
        self.modules += 1
        if not error <= self.largest_error or not self.module:
            self.largest_error, self.module = error, module

    def as_lines(self) -> list[str]:
        """For people."""
        return [f"  check    {self.modules} layers recomputed, largest relative error {self.largest_error:.2g}"]

    def as_dict(self) -> dict[str, int | float]:
        """As it stands in the document."""
        return {"modules": self.modules, "largest_error": float(f"{self.largest_error:.3g}")}


def measure_error(found: Difference, expected: Difference) -> float:
    """The relative error of a difference; infinite where something is changed that should not be."""
    error = norm = 0.0
    for leaf in ("weight", "bias"):
        mine, theirs = (getattr(difference, leaf) for difference in (found, expected))
        wanted = theirs() if theirs else None
        if wanted is not None:
            norm += float(wanted.square().sum())
        if mine:
            error += float((mine() - (0 if wanted is None else wanted)).square().sum())
        elif wanted is not None:
            error += float(wanted.square().sum())
    return math.sqrt(error / norm) if norm else math.inf if error else 0.0


def differ_by_layer(layer: Layer, target: Target, own: BaseModule | None) -> Difference:
    """What a layer of one branch adds to weight and bias of its module, by docs/FORMAT.md, for the transform ``add``.

    ΔW = (gain - 1 + turn) W + W (gain_in - 1 + turn_in) + weight_delta + alpha / rank · up down, where gains are
    diagonal matrices, turns block-diagonal ones, ``kron`` is the left factor of the pair's product, or of
    ``weight_delta`` where there is no pair, and a core stands between up and down;
    Δb = (gain - 1 + turn) b + bias_delta.
    """
    leaves = layer.tensors
    acts_on_bias = "bias_delta" in leaves or (target.bias and not leaves.keys().isdisjoint({"gain", "turn"}))

    def weigh() -> torch.Tensor:
        import torch

        parts = [_product(layer, target)]
        for leaf, axis in (("gain", 0), ("gain_in", 1)):
            if leaf in leaves:
                assert own is not None, "gains are of the base's weight"
                parts.append(own.weight() * along(as_double(leaves[leaf]) - 1, axis, len(target.shape)))
        if "turn" in leaves:
            assert own is not None, "turns are of the base's weight"
            parts.append((_lay_out(leaves["turn"]) @ own.weight().flatten(1)).reshape(target.shape))
        if "turn_in" in leaves:
            assert own is not None, "turns are of the base's weight"
            parts.append(torch.einsum("oi...,ij->oj...", own.weight(), _lay_out(leaves["turn_in"])))
        return sum(part for part in parts if part is not None)  # type: ignore[return-value]

    def shift() -> torch.Tensor:
        parts = [as_double(leaves["bias_delta"])] if "bias_delta" in leaves else []
        if "gain" in leaves and target.bias:
            assert own is not None, "gains are of the base's bias"
            parts.append((as_double(leaves["gain"]) - 1) * own.bias())
        if "turn" in leaves and target.bias:
            assert own is not None, "turns are of the base's bias"
            parts.append(_lay_out(leaves["turn"]) @ own.bias())
        return sum(parts)  # type: ignore[return-value]

    acts_on_weight = leaves.keys() - {"bias_delta"}
    return Difference(weigh if acts_on_weight else None, shift if acts_on_bias else None)


@dataclass(frozen=True, slots=True)
class Own:
    """What the layers of an adapter of one branch are by docs/FORMAT.md: its own definition of itself.

    Attributes:
        adapter: whose transform is ``add`` everywhere.
        architecture: its base model.
        weights: the base's numbers, which gains and turns are functions of.
        file: of the adapter, for messages.
    """

    adapter: Adapter
    architecture: Architecture
    weights: Weights | None
    file: Path

    def target(self, key: tuple[str, str]) -> Target:
        """The base's module of a layer."""
        module = self.architecture.components[key[0]].modules[key[1]]
        return Target(module.kind, module.shape, module.bias)

    def expected(self, key: tuple[str, str]) -> Difference:
        """What a layer adds, float64.

        Raises:
            UnsupportedFamily: it is a function of the base's weights, and there are none.
        """
        name, path = key
        layer = self.adapter.components[name].layers[path]
        needs = sorted(layer.tensors.keys() & {"gain", "gain_in", "turn", "turn_in"})
        if needs and self.weights is None:
            raise UnsupportedFamily(
                f"its {needs[0]} acts on the base model's own weights, which are needed", file=self.file,
                key=".".join(key), hint=f"Name the base model's folder or checkpoint: {option('base', 'FOLDER')}",
            )  # fmt: skip
        modules = self.architecture.components[name].modules
        own = None if self.weights is None else BaseModule(self.weights, name, (Part(path),), modules, self.file, path)
        return differ_by_layer(layer, self.target(key), own)


def _lay_out(turn: Tensor) -> torch.Tensor:
    """The whole matrix of a block-diagonal one."""
    import torch

    return torch.block_diag(*as_double(turn))  # type: ignore[no-untyped-call, no-any-return]


def _product(layer: Layer, target: Target) -> torch.Tensor | None:
    """The low-rank product and the dense difference, ``kron`` applied, in the target's shape."""
    import torch

    leaves = layer.tensors
    delta = leaves.get("weight_delta") or leaves.get("param_delta")
    whole = None if delta is None else as_double(delta)
    pair = _multiply(layer) if layer.rank else None
    if "kron" in leaves:
        right = whole if pair is None else pair
        assert right is not None, "kron has a right factor"
        product: torch.Tensor = torch.kron(as_double(leaves["kron"]), right.flatten(1))
        return product.reshape(target.shape)
    if pair is None:
        return None if whole is None else whole.reshape(target.shape)
    pair = pair if layer.groups > 1 else pair.reshape(target.shape)
    return pair if whole is None else pair + whole.reshape(target.shape)


def _multiply(layer: Layer) -> torch.Tensor:
    import torch

    up, core = as_double(layer.tensors["up.weight"]), layer.tensors.get("core.weight")
    first = layer.tensors["down.weight"]
    down = as_double(first) if core is None else multiply_core(core, first)
    shares = zip(up.chunk(layer.groups), down.flatten(1).chunk(layer.groups), strict=True)
    product = torch.cat([rows @ share for rows, share in shares]) * layer.scale
    return product.reshape(up.shape[0], *down.shape[1:])


def cut_difference(difference: Difference, rows: tuple[tuple[int, int], ...] | None) -> Difference:
    """The part of a fused module's difference that belongs to one of its parts."""
    import torch

    if rows is None:
        return difference
    weight, bias = difference.weight, difference.bias
    return Difference(
        (lambda: torch.cat([weight()[start:stop] for start, stop in rows])) if weight else None,
        (lambda: torch.cat([bias()[start:stop] for start, stop in rows])) if bias else None,
    )
