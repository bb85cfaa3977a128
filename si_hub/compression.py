"""A converted adapter made smaller on request: layers as low-rank pairs, each with its measured error.

A layer stays as it is where it is exact and no larger than its pair would be. The others are the best pair of their
rank by the distiller's randomized singular value decomposition, of the dense difference that their source defines.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from si_hub.adapter import Adapter, Layer
from si_hub.converters.dense import Difference, as_double
from si_hub.converters.families.contract import Target
from si_hub.converters.origins import LayerKey
from si_hub.converters.reading import Conversion
from si_hub.distill.budget.filesize import SOURCE_HASH, adapter_bytes
from si_hub.errors import NotFinite, UsageError
from si_hub.report.text import size_text
from si_hub.storage.tensors import DTYPE_SIZES, Computed, Tensor, torch_names
from si_hub.words import label

if TYPE_CHECKING:
    import torch

#: Kinds of modules that a pair can change.
_PAIRED = {"linear", "conv"}


@dataclass(slots=True)
class Compression:
    """What a compression cost.

    Attributes:
        errors: relative Frobenius error by layer, of those that are not exact any more.
        error: of all layers together, the exact ones counted in.
    """

    errors: dict[str, float] = field(default_factory=dict)
    error: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As JSON data; nothing where nothing was made smaller."""
        return {"error": self.error, "errors": self.errors} if self.errors else {}

    def as_lines(self) -> list[str]:
        """For people; none where nothing was made smaller."""
        if not self.errors:
            return []
        layer, most = max(self.errors.items(), key=lambda item: item[1])
        return [
            f"  error    {self.error:.3g} of what it changes in all, in {len(self.errors)} layers; "
            f"at most {most:.3g}, in {layer}"
        ]


def check_options(rank: int | None, tolerance: float | None, size: int | None) -> bool:
    """Whether a compression is asked for at all.

    Raises:
        UsageError: more than one of them, or one that is no rank, no share or no size.
    """
    given = {"rank": rank, "tolerance": tolerance, "size": size}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) > 1:
        raise UsageError("say one of them", key=", ".join(map(label, asked)))
    if rank is not None and rank < 1:
        raise UsageError("a rank is 1 or more", key=label("rank"), found=rank)
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError("a tolerance is a relative error", key=label("tolerance"), expected="0 to 1", found=tolerance)
    return bool(asked)


class Definitions(Protocol):
    """What layers are by definition: `si_hub.converters.origins.Origins`, or `si_hub.converters.checking.Own`."""

    def target(self, key: LayerKey) -> Target:
        """The base's module."""

    def expected(self, key: LayerKey) -> Difference:
        """What the layer adds to it, float64."""


def compress(
    found: Conversion,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Compression:
    """Replace layers of a conversion by pairs, in place: see `compress_layers`."""
    return compress_layers(
        found.adapter, found.origins, found.source.path, rank=rank, tolerance=tolerance, size=size, progress=progress
    )


def compress_layers(
    adapter: Adapter,
    definitions: Definitions,
    path: Path,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    size: int | None = None,
    must: Callable[[Layer], bool] = lambda layer: False,
    progress: Callable[[int, int], None] | None = None,
) -> Compression:
    """Replace layers of an adapter by pairs, in place.

    Args:
        definitions: what every layer is.
        path: of the adapter, for messages.
        must: says of a layer whether a pair has to stand for it, even a larger one.
        rank: of every pair at most.
        tolerance: the relative error of every layer at most; each gets the lowest rank that keeps it.
        size: bytes of the file at most; the highest rank for all that keeps it.
        progress: called with (numbers done, numbers in all).

    Raises:
        UsageError: see `check_options`; or no rank is small enough for ``size``.
        NotFinite: a layer's numbers are none.
    """
    check_options(rank, tolerance, size)
    layers = {
        (name, path): layer
        for name, component in adapter.components.items()
        for path, layer in component.layers.items()
    }
    targets = {key: definitions.target(key) for key in layers}
    if size is not None:
        rank = _rank_for(adapter, path, layers, targets, size)
    result, squares, norms = Compression(), 0.0, 0.0
    total, done = sum(one.count for one in targets.values()), 0
    for key, layer in layers.items():
        if rank is not None and (found := _cut_pair(layer, rank)) is not None:
            pair, error, norm = found
            norms += norm
            if pair is not None:
                adapter.components[key[0]].layers[key[1]] = pair
                result.errors[".".join(key)] = math.sqrt(error / norm) if norm else 0.0
                squares += error
            done += targets[key].count
            if progress:
                progress(done, total)
            continue
        difference = definitions.expected(key)
        norm = _squared_norm(difference)
        if not math.isfinite(norm):
            raise NotFinite("its numbers are not finite", file=path, key=".".join(key))
        norms += norm
        forced = must(layer) and targets[key].kind in _PAIRED and difference.weight is not None
        if forced or _is_replaced(layer, targets[key], rank):
            room = sys.maxsize if forced else _weight_bytes(layer)
            pair, error = _approximate(key, difference, rank, tolerance, norm, room)
            if pair is not None:
                adapter.components[key[0]].layers[key[1]] = pair
                result.errors[".".join(key)] = math.sqrt(error / norm) if norm else 0.0
                squares += error
        done += targets[key].count
        if progress:
            progress(done, total)
    result.error = math.sqrt(squares / norms) if norms else 0.0
    provenance = adapter.about.setdefault("provenance", {})
    if result.errors:
        provenance.pop("exact", None)
        provenance["error"] = float(f"{result.error:.4g}")
    return result


def _is_replaced(layer: Layer, target: Target, rank: int | None) -> bool:
    """Whether a pair of this rank, or of any where only a tolerance is given, would be smaller than the layer."""
    if target.kind not in _PAIRED or layer.groups > 1 or not layer.tensors.keys() & _LARGE:
        return False
    return _weight_bytes(layer) > _ITEM * _pair_count(target, rank or 1)


#: Leaves that a pair may be smaller than.
_LARGE = {"weight_delta", "up.weight", "turn", "turn_in"}
#: Bytes of a number of a pair, float32.
_ITEM = 4


def _weight_bytes(layer: Layer) -> int:
    """Bytes of all that a pair would stand for."""
    return sum(tensor.nbytes for leaf, tensor in layer.tensors.items() if leaf != "bias_delta")


def _pair_count(target: Target, rank: int) -> int:
    return rank * (target.shape[0] + math.prod(target.shape[1:]))


def _rank_for(
    adapter: Adapter, file: Path, layers: dict[LayerKey, Layer], targets: dict[LayerKey, Target], size: int
) -> int:
    """The highest rank for all layers that keeps the file within ``size`` bytes."""

    def measure(rank: int) -> int:
        """Bytes of the file at this rank: of the same tensors, which nobody computes."""
        components = {
            name: replace(component, layers={
                path: _sized(layer, targets[name, path], rank) for path, layer in component.layers.items()
            })
            for name, component in adapter.components.items()
        }  # fmt: skip
        return adapter_bytes(replace(adapter, components=components)) + SOURCE_HASH

    low, high = 0, max(min(one.shape[0], math.prod(one.shape[1:])) for one in targets.values() if one.shape)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if measure(middle) <= size else (low, middle - 1)
    if not low:
        raise UsageError(
            "no pairs of rank 1 are that small", file=file, key=label("size"),
            expected=f"{size_text(measure(1))} or more", found=size_text(size),
        )  # fmt: skip
    return low


def _sized(layer: Layer, target: Target, rank: int) -> Layer:
    """A layer as it would be at this rank, by its sizes."""
    if _is_pair(layer):
        dtype, rank = _pair_dtype(layer), min(rank, layer.rank)
        if rank == layer.rank:
            return layer
        shapes = {"down.weight": (rank, *target.shape[1:]), "up.weight": (target.shape[0], rank)}
        sized = {leaf: _unmade(dtype, shape) for leaf, shape in shapes.items()}
        return Layer({**layer.tensors, **sized})
    if not _is_replaced(layer, target, rank):
        return layer

    def nothing() -> torch.Tensor:
        raise AssertionError("sizes have no numbers")

    rank = min(rank, target.shape[0], math.prod(target.shape[1:]))
    leaves = {
        "down.weight": Tensor.compute((rank, *target.shape[1:]), nothing),
        "up.weight": Tensor.compute((target.shape[0], rank), nothing),
    }
    if "bias_delta" in layer.tensors or (target.bias and not layer.tensors.keys().isdisjoint({"gain", "turn"})):
        leaves["bias_delta"] = Tensor.compute(target.shape[:1], nothing)
    return Layer(leaves)


def _unmade(dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of which only the size is asked."""

    def make() -> bytes:
        raise AssertionError("sizes have no numbers")

    return Tensor(dtype, shape, (Computed(DTYPE_SIZES[dtype] * math.prod(shape), make),))


def _squared_norm(difference: Difference) -> float:
    """Squared Frobenius norm of weight and bias."""
    return sum(float(values().square().sum()) for values in (difference.weight, difference.bias) if values)


def _approximate(
    key: LayerKey, difference: Difference, rank: int | None, tolerance: float | None, norm: float, size: int
) -> tuple[Layer | None, float]:
    """The pair that stands for a layer and its squared error; none where none within the tolerance is smaller.

    Args:
        size: bytes of what it stands for.
    """
    from si_hub.distill.survey.lowrank import truncate

    assert difference.weight is not None, "what a pair replaces is a weight"
    matrix = difference.weight().float()
    shape, flat = matrix.shape, matrix.reshape(len(matrix), -1)
    most = min(flat.shape)
    wanted = rank or 1
    while True:
        down, up = truncate(matrix, wanted, generator=_generator(key))
        error = float((flat - up @ down.flatten(1)).double().square().sum())
        if tolerance is None or error <= tolerance**2 * norm:
            break
        if wanted >= most or _ITEM * wanted * sum(flat.shape) >= size:
            return None, 0.0
        wanted = min(2 * wanted, most)
    if tolerance is not None:
        down, up, error = _trim(flat, down.reshape(wanted, -1), up, tolerance**2 * norm)
        if _ITEM * (down.numel() + up.numel()) >= size:
            return None, 0.0
    leaves = {
        "down.weight": Tensor.from_torch(down.reshape(-1, *shape[1:])), "up.weight": Tensor.from_torch(up),
    }  # fmt: skip
    if difference.bias:
        leaves["bias_delta"] = Tensor.from_torch(difference.bias().float())
    return Layer(leaves), error


def _cut_pair(layer: Layer, rank: int) -> tuple[Layer | None, float, float] | None:
    """A pair cut to a rank, its squared error and squared norm: the best there is, of its factors alone.

    The singular values of up · down are those of the small product of both triangular factors. The pair is None where
    it is of no higher rank; all is None for what is no pair of one branch.
    """
    import torch

    if not _is_pair(layer):
        return None
    up, down = (as_double(layer.tensors[leaf]) for leaf in ("up.weight", "down.weight"))
    left, upper = torch.linalg.qr(layer.scale * up)
    right, lower = torch.linalg.qr(down.flatten(1).T)
    u, sigma, v = torch.linalg.svd(upper @ lower.T)
    bias = layer.tensors.get("bias_delta")
    norm = float(sigma.square().sum()) + (float(as_double(bias).square().sum()) if bias else 0.0)
    if not math.isfinite(norm):
        return None  # told as the others are, by name
    if layer.rank <= rank:
        return None, 0.0, norm
    root = sigma[:rank].sqrt()
    wide_up, wide_down = (left @ u[:, :rank]) * root, ((right @ v.T[:, :rank]) * root).T
    stored = {name: kind for kind, name in torch_names().items()}[_pair_dtype(layer)]
    cut_up, cut_down = wide_up.to(stored), wide_down.to(stored)
    leaves = {
        "down.weight": Tensor.from_torch(cut_down.reshape(rank, *down.shape[1:])),
        "up.weight": Tensor.from_torch(cut_up),
    }
    if bias:
        leaves["bias_delta"] = bias
    # What rounding to the pair's own dtype adds: of the product, by its factors alone.
    both = torch.cat([cut_up.double(), -wide_up], 1), torch.cat([cut_down.double(), wide_down])
    rounded = float(((both[0].T @ both[0]) * (both[1] @ both[1].T)).sum())
    return Layer(leaves), float(sigma[rank:].square().sum()) + max(rounded, 0.0), norm


def _pair_dtype(layer: Layer) -> str:
    """The dtype that a pair keeps when it is cut: half precision stays so."""
    dtype = layer.tensors["up.weight"].dtype
    return dtype if dtype in {"F16", "BF16"} else "F32"


def _is_pair(layer: Layer) -> bool:
    return layer.tensors.keys() - {"bias_delta"} == {"down.weight", "up.weight"} and layer.groups == 1 == layer.branches


def _trim(
    matrix: torch.Tensor, down: torch.Tensor, up: torch.Tensor, allowed: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The fewest leading ranks of a pair that keep the squared error within what is allowed."""
    # Both factors carry the root of each singular value, so what rank k adds is the square of their norms' product.
    energies = (down.double().square().sum(1) * up.double().square().sum(0)).flip(0).cumsum(0).flip(0)
    rest = float((matrix - up @ down).double().square().sum())
    enough = int((rest + energies > allowed).sum())
    rank = max(1, enough)
    while True:
        error = float((matrix - up[:, :rank] @ down[:rank]).double().square().sum())
        if error <= allowed or rank >= len(down):
            return down[:rank].contiguous(), up[:, :rank].contiguous(), error
        rank += 1


def _generator(key: LayerKey) -> torch.Generator:
    """A layer's own random numbers, so that the same source gives the same bytes."""
    import torch

    digest = hashlib.sha256(".".join(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
