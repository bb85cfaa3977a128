"""`diff`: two adapters of any families as what they do, layer by layer: how far apart, and in which direction.

Changes of weights are compared by their inner products. Of pairs those come from the factors' Gram matrices, and of
Kronecker products from those of both factors, so no matrix of the base's size is formed where none is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.adapter import Adapter, Layer
from si_hub.architectures import Architecture
from si_hub.converters.checking import Own
from si_hub.converters.dense import as_double
from si_hub.converters.folding import fold_core
from si_hub.editing.opening import open_adapter
from si_hub.editing.steadying import steady
from si_hub.errors import BaseMismatch, UsageError
from si_hub.foreign import join_safely
from si_hub.storage.access import tell_access_errors

if TYPE_CHECKING:
    import torch

#: Layers that people are shown: those that are furthest apart.
_SHOWN = 8
_PAIR = {"down.weight", "up.weight"}
#: Squared differences below this share of the squares are rounding of float64.
_ROUNDING = 1e-14


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two changes are apart, as vectors of all their numbers.

    Attributes:
        first, second: their squared norms.
        inner: their inner product.
    """

    first: float = 0.0
    second: float = 0.0
    inner: float = 0.0

    def __add__(self, other: Distance) -> Distance:
        return Distance(self.first + other.first, self.second + other.second, self.inner + other.inner)

    def scaled(self, first: float, second: float) -> Distance:
        """Of the changes at these weights."""
        return Distance(self.first * first**2, self.second * second**2, self.inner * first * second)

    @property
    def difference(self) -> float:
        """Norm of the difference over the first one's; infinite where the first changes nothing and the second does."""
        square = self.first + self.second - 2 * self.inner
        if square <= _ROUNDING * (self.first + self.second):
            return 0.0
        return math.sqrt(square / self.first) if self.first else math.inf

    @property
    def cosine(self) -> float:
        """1 where both point the same way, 0 where they have nothing in common; 0 where one of them is nothing."""
        both = math.sqrt(self.first) * math.sqrt(self.second)
        return max(-1.0, min(1.0, self.inner / both)) if both else 0.0

    @property
    def scale(self) -> float:
        """The weight of the first that comes nearest to the second."""
        return self.inner / self.first if self.first else 0.0

    def as_dict(self) -> dict[str, Any]:
        """As JSON data; ``difference`` is null where it is infinite."""
        return {
            "difference": self.difference if math.isfinite(self.difference) else None, "cosine": self.cosine,
            "scale": self.scale, "norms": [math.sqrt(self.first), math.sqrt(self.second)],
        }  # fmt: skip

    def as_text(self) -> str:
        """One line of numbers for people."""
        if not self.first or not self.second:
            return "both change nothing" if self.first == self.second else "one of them changes nothing"
        return f"{self.difference:.3g} apart, cosine {self.cosine:.3f}"


@dataclass(frozen=True, slots=True)
class Apartness:
    """Two adapters, compared.

    Attributes:
        paths: the files.
        base: name of their base model.
        layers: distances by ``component.module``.
        only: layers that one of them alone has, of the first and of the second.
        tokens: textual inversions by ``component.token``, and whether both have them alike.
    """

    paths: tuple[Path, Path]
    base: str
    layers: dict[str, Distance]
    only: tuple[list[str], list[str]]
    tokens: dict[str, bool]

    @property
    def total(self) -> Distance:
        """Of all layers together."""
        return sum(self.layers.values(), Distance())

    @property
    def components(self) -> dict[str, Distance]:
        """Of all layers of each component together."""
        found: dict[str, Distance] = {}
        for key, distance in self.layers.items():
            name = key.partition(".")[0]
            found[name] = found.get(name, Distance()) + distance
        return found

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        return {
            "paths": list(map(str, self.paths)), "base": self.base, **self.total.as_dict(),
            "components": {name: one.as_dict() for name, one in self.components.items()},
            "layers": {key: one.as_dict() for key, one in self.layers.items()},
            "only_in_first": self.only[0], "only_in_second": self.only[1], "tokens": self.tokens,
        }  # fmt: skip

    def as_text(self) -> str:
        """The result as lines for people."""
        alone = {*self.only[0], *self.only[1]}
        apart = sorted(
            ((key, one) for key, one in self.layers.items() if one.difference and key not in alone),
            key=lambda item: -item[1].difference,
        )
        total, parts = self.total, self.components if len(self.components) > 1 else {}
        width = max(8, *map(len, parts), 0)
        more = len(apart) - _SHOWN
        return join_safely([
            f"{self.paths[0]} and {self.paths[1]}",
            f"  {'base':<{width}} {self.base}",
            f"  {'in all':<{width}} {total.as_text()}" + ("" if total.difference else ": they do the same"),
            *([f"  {'scale':<{width}} the second is nearest to {total.scale:.3g} of the first"] if total.difference
              else []),
            *(f"  {name:<{width}} {one.as_text()}" for name, one in parts.items()),
            f"  {'layers':<{width}} {len(self.layers) - len(alone)} in both, {len(self.only[0])} in the first alone, "
            f"{len(self.only[1])} in the second alone",
            *(f"    {one.as_text()}: {key}" for key, one in apart[:_SHOWN]),
            *([f"    ... and {more} more"] if more > 0 else []),
            *(f"  token {token}: {'the same' if same else 'not the same'}" for token, same in self.tokens.items()),
        ])  # fmt: skip


@tell_access_errors()
def diff(
    first: str | Path,
    second: str | Path,
    *,
    base: str | Path | Architecture | None = None,
    styles: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Apartness:
    """Compare two adapters of one base model by what they do to its weights and biases.

    Args:
        first, second: StyleInject files, or any other adapters, of any two families.
        base: of foreign files; or the folder or checkpoint whose weights gains and rotations act on.
        styles: the mix at which an adapter of several named styles is compared.
        progress: called with (layers done, layers in all).

    Raises:
        BaseMismatch: adapters of different base models.
        UsageError: a style that neither has.
        UnsupportedFamily: one is a function of the base's weights, and there are none.
        ConversionRefused: an adapter whose action depends on the picture.
    """
    files = Path(first), Path(second)
    opened = [open_adapter(file, base) for file in files]
    known = {name for adapter, _, _ in opened for name in adapter.branches}
    if unknown := sorted(set(styles or ()) - known):
        raise UsageError("neither has such a style", key=", ".join(unknown), found=", ".join(sorted(known)) or "none")
    adapters = [_mix(adapter, styles) for adapter, _, _ in opened]
    names = [adapter.base_model.architecture for adapter in adapters]
    if names[0] != names[1]:
        raise BaseMismatch("is for another base model than the first one", file=files[1], expected=names[0],
                           found=names[1])  # fmt: skip
    own = [
        Own(adapter, architecture, weights, file)
        for adapter, (_, architecture, weights), file in zip(adapters, opened, files, strict=True)
    ]
    return measure_apart((own[0], own[1]), progress=progress)


def _mix(adapter: Adapter, styles: Mapping[str, float] | None) -> Adapter:
    """The adapter at the styles that it has; one without any has none to choose."""
    return steady(adapter, {name: weight for name, weight in (styles or {}).items() if name in adapter.branches})


def measure_apart(own: tuple[Own, Own], *, progress: Callable[[int, int], None] | None = None) -> Apartness:
    """Two adapters of one branch and one base model, compared.

    Raises:
        UnsupportedFamily: see `diff`.
    """
    places = [
        [(name, path) for name, component in one.adapter.components.items() for path in component.layers] for one in own
    ]
    keys = list(dict.fromkeys(places[0] + places[1]))
    held = [set(found) for found in places]
    layers = {}
    for number, key in enumerate(keys):
        layers[".".join(key)] = _measure(own, key, (key in held[0], key in held[1]))
        if progress:
            progress(number + 1, len(keys))
    only = (
        [".".join(key) for key in keys if key not in held[1]],
        [".".join(key) for key in keys if key not in held[0]],
    )
    return Apartness(
        (own[0].file, own[1].file), own[0].adapter.base_model.architecture, layers, only,
        _compare_tokens(own[0].adapter, own[1].adapter),
    )  # fmt: skip


def _compare_tokens(first: Adapter, second: Adapter) -> dict[str, bool]:
    held = [
        {
            f"{name}.{token}": tensor
            for name, one in adapter.components.items()
            for token, tensor in one.embeddings.items()
        }
        for adapter in (first, second)
    ]
    found = {}
    for token in dict.fromkeys([*held[0], *held[1]]):
        one, two = held[0].get(token), held[1].get(token)
        found[token] = one is not None and two is not None and one.shape == two.shape and bool(
            (as_double(one) == as_double(two)).all()
        )  # fmt: skip
    return found


def _measure(own: tuple[Own, Own], key: tuple[str, str], there: tuple[bool, bool]) -> Distance:
    """Of one layer, which both or one of them has."""
    name, path = key
    layers = [
        one.adapter.components[name].layers[path] if held else Layer({}) for one, held in zip(own, there, strict=True)
    ]
    factors = [_factors(layer) for layer in layers]
    one, two = factors
    if one is None or two is None or (one and two and not _fit(one, two)):
        return _measure_dense(own, key, there)
    distance = Distance(_product(one, one), _product(two, two), _product(one, two))
    biases = [
        as_double(layer.tensors["bias_delta"]).reshape(-1) if "bias_delta" in layer.tensors else None
        for layer in layers
    ]
    return distance + _measure_vectors(biases[0], biases[1])


#: A change as the Kronecker product of matrices, each of which is an inner product of factors, or one matrix.
Factors = list[tuple["torch.Tensor", "torch.Tensor | None"]]


def _factors(layer: Layer) -> Factors | None:
    """The change of a weight by its factors, an empty list for none; None where it has to be laid out."""
    layer = fold_core(layer)
    leaves = layer.tensors.keys() - {"bias_delta"}
    if not leaves:
        return []
    if leaves - {"kron"} != _PAIR or layer.groups > 1:
        if leaves != {"kron", "weight_delta"}:
            return None
        right: tuple[torch.Tensor, torch.Tensor | None] = as_double(layer.tensors["weight_delta"]).flatten(1), None
    else:
        up, down = as_double(layer.tensors["up.weight"]), as_double(layer.tensors["down.weight"]).flatten(1)
        right = up * layer.scale, down
    return [(as_double(layer.tensors["kron"]), None), right] if "kron" in leaves else [right]


def _fit(one: Factors, two: Factors) -> bool:
    """Whether both are products of as many matrices of the same shapes."""
    shapes = [
        [(len(left), (left if right is None else right).shape[1]) for left, right in factors] for factors in (one, two)
    ]
    return shapes[0] == shapes[1]


def _product(one: Factors, two: Factors) -> float:
    """⟨A ⊗ B, C ⊗ D⟩ = ⟨A, C⟩ ⟨B, D⟩, and ⟨U V, X Y⟩ = ⟨Uᵀ X, V Yᵀ⟩."""
    if not one or not two:
        return 0.0
    result = 1.0
    for (left, right), (other, beside) in zip(one, two, strict=True):
        if right is None and beside is None:
            result *= float((left * other).sum())
        elif right is None or beside is None:
            whole, (up, down) = (left, (other, beside)) if right is None else (other, (left, right))
            assert down is not None, "one of both is a pair"
            result *= float(((up.T @ whole) * down).sum())
        else:
            result *= float(((left.T @ other) * (right @ beside.T)).sum())
    return result


def _measure_dense(own: tuple[Own, Own], key: tuple[str, str], there: tuple[bool, bool]) -> Distance:
    """Of one layer as the matrices that both stand for."""
    differences = [one.expected(key) if held else None for one, held in zip(own, there, strict=True)]
    total = Distance()
    for leaf in ("weight", "bias"):
        values = [getattr(one, leaf) if one is not None else None for one in differences]
        flat = [None if make is None else make().reshape(-1) for make in values]
        total += _measure_vectors(flat[0], flat[1])
    return total


def _measure_vectors(one: torch.Tensor | None, two: torch.Tensor | None) -> Distance:
    return Distance(
        0.0 if one is None else float(one @ one),
        0.0 if two is None else float(two @ two),
        0.0 if one is None or two is None else float(one @ two),
    )
