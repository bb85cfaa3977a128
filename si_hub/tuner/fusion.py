"""Adapters in the base weights, where that is exact, and out of them again, always exactly.

The fused weights are computed from the untouched originals and the set of fused adapters, so no order of calls can
matter. The originals are kept as they are, in their own storage: unfusing puts them back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.errors import ConversionRefused, NotFinite, UsageError
from si_hub.foreign import make_safe
from si_hub.tuner.kinds import is_readable
from si_hub.tuner.layer import FixedRouter, LayerAdapter
from si_hub.tuner.leaves import check_held
from si_hub.tuner.ledger import Ledger, Site
from si_hub.tuner.operator import mix, route, turn_channels, wide
from si_hub.tuner.parameters import ParameterAdapter, ParameterLayer
from si_hub.tuner.projections import renew

ModuleAdapter = LayerAdapter | ParameterAdapter
#: Leaves that only a parameter of the module can hold, which not every module has.
_HOLDERS = {"bias_delta": "bias", "gain": "weight", "turn": "weight", "weight_delta": "weight"}


@dataclass(slots=True)
class Originals:
    """What a base object had before: by parameter name, its tensor (None for a bias it did not have) and the mark of
    the fused tensor that stands in for it."""

    base: nn.Module
    tensors: dict[str, Tensor | None]
    marks: dict[str, int]
    weights: dict[str, float]

    def follow(self, fn: Callable[[Tensor], Tensor]) -> None:
        """What the base had is cast as its parameters are about to be, so that it is the base's own cast, bit for bit.

        Casts to float8 and back are left out: they are how a base is stored between its calls.
        """
        for name, original in self.tensors.items():
            parameter = self.base._parameters.get(name)
            if original is None or parameter is None or name not in self.marks:
                continue
            narrow, dtype = original.itemsize < 2, fn(torch.empty(0, dtype=original.dtype)).dtype
            if narrow or dtype == original.dtype or dtype.itemsize < 2 or _mark(parameter.data) != self.marks[name]:
                continue
            self.tensors[name] = original.to(dtype)
            self.marks[name] = _mark(parameter.data.to(dtype))


def fuse_into_base(ledger: Ledger, names: list[str], scale: float, *, safe: bool = False) -> None:
    """Compute the base weights with these adapters in them, on top of those that are there.

    Raises:
        ConversionRefused, UsageError, NotFinite: as `si_hub.tuner.steering.fuse_in_place`.
    """
    unknown = sorted(set(names) - ledger.records.keys())
    if unknown:
        raise UsageError("no adapter of that name in the model", key=", ".join(unknown), found=sorted(ledger.records))
    for path, site in ledger.sites.items():
        for name in names:
            if name in site.layer.adapters:
                _check_exact(path, site.base, site.layer[name])
    for name in names:
        if ledger.records[name].schedule is not None:
            raise ConversionRefused(
                "the adapter's weights change by step, so no weight can hold it", key=name, hint="Keep it unfused"
            )
    factors = _factors(ledger) | dict.fromkeys(names, scale)
    _check_owners(ledger, factors.keys())
    _settle(ledger, factors, fresh=set(names), safe=safe)


def unfuse_from_base(ledger: Ledger, names: Iterable[str]) -> None:
    """Put back the base weights without these adapters in them, bit for bit."""
    leaving = set(names)
    factors = _factors(ledger)
    if leaving & factors.keys():
        _settle(ledger, {name: factor for name, factor in factors.items() if name not in leaving}, fresh=set())


def check_bakeable(ledger: Ledger, names: Collection[str]) -> None:
    """Raise UsageError for adapters whose fused weights cannot stay without them: unfused, or fused with others."""
    for name in names:
        if ledger.records[name].fused is None:
            raise UsageError("the adapter is not fused", key=name, hint="Fuse it first")
    for path, kept in ledger.originals.items():
        others = sorted(kept.weights.keys() - set(names))
        if others and kept.weights.keys() & set(names):
            raise UsageError(
                "another adapter is fused into the same module",
                key=path,
                found=", ".join(others),
                hint="Keep the weights of both, or unfuse the other one first",
            )


def _check_owners(ledger: Ledger, names: Collection[str]) -> None:
    """Raise ConversionRefused where two adapted modules share a tensor: what one of them fuses would act in both."""
    owners: dict[int, str] = {}
    for path, site in ledger.sites.items():
        if not any(name in site.layer.adapters for name in names):
            continue
        for name in _fusable(site.layer):
            parameter = site.base._parameters.get(name)
            owner = path if parameter is None else owners.setdefault(id(parameter), path)
            if owner != path:
                raise ConversionRefused(
                    f"the module shares its {name} with {owner}, which is adapted too",
                    key=path,
                    hint="Keep the adapters unfused, or leave one of the two layers out",
                )


def _factors(ledger: Ledger) -> dict[str, float]:
    return {name: record.fused for name, record in ledger.records.items() if record.fused is not None}


def _check_exact(path: str, base: nn.Module, adapter: ModuleAdapter) -> None:
    if adapter.transform != "add":
        raise ConversionRefused(
            "the injection depends on the features, so no weight can hold it",
            key=path,
            expected="transform add",
            found=adapter.transform,
            hint="Keep the adapter unfused",
        )
    if adapter.branches > 1 and adapter.styles is None and not isinstance(adapter._modules["router"], FixedRouter):
        raise ConversionRefused(
            "the router chooses styles per input, so no weight can hold them",
            key=path,
            hint="Fix the styles with set_styles first, or keep the adapter unfused",
        )
    if adapter.branches and adapter.groups > 1:
        raise ConversionRefused(
            "a low-rank pair on a grouped convolution is no grouped convolution", key=path, hint="Keep it unfused"
        )
    for leaf, parameter in _HOLDERS.items() if isinstance(adapter, LayerAdapter) else ():
        if leaf in adapter._modules and base._parameters.get(parameter) is None:
            raise ConversionRefused(
                f"a {leaf} needs a {parameter}, and the module has none: what is fused would be lost when it is saved",
                key=path,
                hint="Keep the adapter unfused",
            )
    if isinstance(adapter, LayerAdapter) and adapter.kind.low_rank and not is_readable(base):
        raise ConversionRefused(
            "the base weight is quantised, offloaded or hooked", key=path, hint="Fuse before quantising or offloading"
        )


def _settle(ledger: Ledger, factors: dict[str, float], *, fresh: set[str], safe: bool = False) -> None:
    """Make the base weights those of the given fused adapters."""
    prepared: dict[str, tuple[Originals, dict[str, Tensor]]] = {}
    for path, site in ledger.sites.items():
        fused = sorted(factors.keys() & set(site.layer.adapters.keys()))
        if not fused and path not in ledger.originals:
            continue
        kept = ledger.originals.get(path)
        kept = _originals(site.base, site.layer) if kept is None else _up_to_date(path, site, kept)
        frozen = {name: kept.weights[name] for name in fused if name in kept.weights and name not in fresh}
        weights = {name: factors[name] * site.layer[name].weight for name in fused} | frozen
        totals = _totals(kept.tensors, site.layer, weights)
        tensors = {name: _add(kept, name, total) for name, total in totals.items()}
        if safe:
            _check_finite(path, tensors, kept.tensors, totals)
        prepared[path] = (Originals(site.base, kept.tensors, {}, weights), tensors)
    for path, (kept, tensors) in prepared.items():
        _write(ledger.sites[path].base, kept, tensors)
        ledger.sites[path].layer.originals = kept if kept.weights else None
        attention = ledger.sites[path].attention
        if attention is not None:
            renew(attention)
        if kept.weights:
            ledger.originals[path] = kept
        else:
            ledger.originals.pop(path, None)
    for name, record in ledger.records.items():
        record.fused = factors.get(name)
    ledger.refresh()


def _up_to_date(path: str, site: Site, kept: Originals) -> Originals:
    """The originals on the model's device; where something else changed the fused weights, that change is kept."""
    tensors: dict[str, Tensor | None] = {}
    for name, original in kept.tensors.items():
        parameter = site.base._parameters.get(name)
        current = None if parameter is None else parameter.data
        if name not in kept.marks:
            # Nothing was fused into it, so it is still the base's own, whatever became of it.
            tensors[name] = current
        else:
            tensors[name] = original if original is None or current is None else original.to(current.device)
    for name, mark in kept.marks.items():
        current = site.base._parameters.get(name)
        if current is None or _mark(current.data) != mark:
            warnings.warn(
                f"{make_safe(f'{path}.{name}', 300, keep_end=True)} was changed while an adapter was fused into it "
                "(a LoRA fused or unfused?): what was fused is subtracted, to rounding",
                stacklevel=4,
            )
            total = _totals(kept.tensors, site.layer, kept.weights)[name]
            tensors[name] = None if current is None else (wide(current.data) - total).to(current.dtype)
    return Originals(site.base, tensors, kept.marks, kept.weights)


def _originals(base: nn.Module, layer: nn.Module) -> Originals:
    tensors = {}
    for name in _fusable(layer):
        parameter = base._parameters.get(name)
        tensors[name] = None if parameter is None else parameter.data
    return Originals(base, tensors, {}, {})


def _fusable(layer: nn.Module) -> tuple[str, ...]:
    """The base's parameters that a layer's adapters change."""
    return (layer.name,) if isinstance(layer, ParameterLayer) else ("weight", "bias")


def _totals(base: dict[str, Tensor | None], layer: Any, weights: dict[str, float]) -> dict[str, Tensor]:
    """Σ_a w_a Δ_a by parameter name, float32 or wider."""
    result: dict[str, Tensor] = {}
    for adapter, weight in weights.items():
        for name, delta in deltas(layer[adapter], base).items():
            result[name] = weight * delta + result[name] if name in result else weight * delta
    return result


def _add(kept: Originals, name: str, total: Tensor) -> Tensor:
    original = kept.tensors[name]
    if original is None:
        like = next(tensor for tensor in kept.tensors.values() if tensor is not None)
        return total.to(like.dtype)
    return (wide(original) + total).to(original.dtype)


@torch.no_grad()
def deltas(adapter: ModuleAdapter, base: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """What an adapter of constant s and T = ``add`` adds to ``weight`` and ``bias`` at w = 1, float32 or wider.

    r = (gain − 1 + turn)(W0 x + b) + W0 (gain_in − 1 + turn_in) x + weight_delta x + bias_delta, and Δh, are all linear
    in x; gains are diagonal matrices here, turns block-diagonal ones.
    """
    if isinstance(adapter, ParameterAdapter):
        name = next(iter(base))
        return {name: wide(adapter.param_delta.weight)}
    values = {
        name: wide(value)
        for name, leaf in adapter.named_children()
        for parameter, value in leaf.named_parameters()
        if parameter == "weight"
    }
    weight, bias = base.get("weight"), base.get("bias")
    kron = values.get("kron")
    parts: dict[str, list[Tensor]] = {"weight": [], "bias": []}
    if "gain" in values:
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None:
                parts[name].append(_axis(values["gain"] - 1, tensor.ndim, adapter, 0) * wide(tensor))
    if "gain_in" in values:
        assert weight is not None
        parts["weight"].append(_axis(values["gain_in"] - 1, weight.ndim, adapter, 1) * wide(weight))
    if "turn" in values:
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None:
                rows = wide(tensor).reshape(1, *tensor.shape)  # outputs second, as a convolution's channels stand
                parts[name].append(turn_channels(values["turn"], rows, channels_last=False)[0])
    if "turn_in" in values:
        assert weight is not None
        # (W T)ᵀ = Tᵀ Wᵀ: the columns are turned by the transposed blocks.
        parts["weight"].append(turn_channels(values["turn_in"].mT, wide(weight), channels_last=False))
    if "weight_delta" in values:
        delta = values["weight_delta"]
        parts["weight"].append(delta if kron is None or adapter.branches else _kron(kron, delta))
    if "bias_delta" in values:
        parts["bias"].append(values["bias_delta"])
    if adapter.branches:
        pair = _pair_product(adapter, values["down"], values.get("core"), values["up"])
        parts["weight"].append(pair if kron is None else _kron(kron, pair))
    return {name: sum(found[1:], found[0]) for name, found in parts.items() if found}


def _axis(vector: Tensor, ndim: int, adapter: LayerAdapter, axis: int) -> Tensor:
    """The vector along output (0) or input (1) channels of a parameter; norms and embeddings have channels last."""
    if adapter.kind.name in {"norm", "embedding"}:
        return vector
    shape = [1] * ndim
    shape[axis] = -1
    return vector.reshape(shape)


def _pair_product(adapter: LayerAdapter, down: Tensor, core: Tensor | None, up: Tensor) -> Tensor:
    """(alpha / rank) · B · Σ_i s_i A_i in the shape of the base weight; with a core, A_i is core_i ∗ down."""
    mixed = down if core is None else core
    if adapter.styles is not None:
        mixed = mix(mixed, torch.tensor(adapter.styles, device=mixed.device, dtype=mixed.dtype))
    elif isinstance(router := adapter._modules.get("router"), FixedRouter):
        mixed = mix(mixed, route(wide(router.bias), None, router.bias))
    if core is not None:
        mixed = torch.einsum("rq...,qi->ri...", mixed, down.flatten(1))
    product = up.flatten(1) @ mixed.flatten(1)
    return adapter.scale * product.reshape(-1, *mixed.shape[1:])


def _kron(left: Tensor, right: Tensor) -> Tensor:
    """kron(left, right) over output and input channels; a kernel stays with the right factor."""
    return torch.kron(left.reshape(*left.shape, *[1] * (right.ndim - 2)), right)


def _write(base: nn.Module, kept: Originals, tensors: dict[str, Tensor]) -> None:
    for name, original in kept.tensors.items():
        fused = tensors.get(name)
        parameter = base._parameters.get(name)
        if fused is not None:
            kept.marks[name] = _mark(fused)
            if parameter is None:
                base._parameters[name] = nn.Parameter(fused, requires_grad=False)
            else:
                parameter.data = fused
        elif original is None:
            base._parameters[name] = None
        elif parameter is not None:
            parameter.data = original


def _check_finite(
    path: str, tensors: dict[str, Tensor], originals: dict[str, Tensor | None], totals: dict[str, Tensor]
) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            original = originals[name]
            check_held(totals[name] if original is None else wide(original) + totals[name], tensor, f"{path}.{name}")
            raise NotFinite("the fused weight would hold NaN or infinity", key=f"{path}.{name}")


_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _mark(tensor: Tensor) -> int:
    """A checksum of the bits: two sums, one weighted by position, so that moved values show too."""
    bits = tensor.contiguous().view(-1).view(_BITS[tensor.element_size()]).to(torch.int64)
    return hash((int(bits.sum()), int((bits * torch.arange(1, bits.numel() + 1, device=bits.device)).sum())))
