"""The child module that stands beside a base module, and the hook that adds to the base module's output.

The base module stays the same object, of the same class, under the same name: its own ``forward`` runs (quantised or
not), and what the active adapters contribute is added to what comes out. Taking the child and the hook away is the
exact inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from si_hub.adapter import Pool, Transform
from si_hub.errors import UsageError
from si_hub.tuner import operator
from si_hub.tuner.kinds import FLOAT8, Kind, evaluate, is_plain, product
from si_hub.tuner.requests import ModelRun, RowPlan, born, current_call

CHILD = "styleinject_layer"
#: Leaves that keep a float32 of the file on a half-precision base: gain − 1 would vanish in it, and the softmax is
#: taken in float32 anyway.
PRECISE = {"gain", "gain_in", "router"}


@dataclass(slots=True)
class Control:
    """What all layers of one model share.

    Attributes:
        enabled: the user's switch for every adapter.
        by_thread: factors of the calls that are running (``cross_attention_kwargs={"scale": s}``), by thread.
        compiled: the same for compiled code, which cannot tell threads apart: those of whoever called last.
        born: when it was made, among requests.
        standing: what acts without any request, as a plan; None where no weight of that changes by itself.
    """

    enabled: bool = True
    by_thread: dict[int, list[float]] = field(default_factory=dict)
    compiled: list[float] = field(default_factory=list)
    born: int = field(default_factory=born)
    standing: Callable[[], RowPlan] | None = None

    @property
    def scales(self) -> Sequence[float]:
        """Factors of this thread's call, innermost last."""
        return self.compiled if torch.compiler.is_compiling() else self.by_thread.get(get_ident(), ())

    def push(self, scale: float) -> None:
        """One factor more in this thread."""
        self.compiled.append(scale)
        if not torch.compiler.is_compiling():
            self.by_thread.setdefault(get_ident(), []).append(scale)

    def pop(self, scale: float) -> None:
        """One factor of this value less, where there is one."""
        if scale in self.compiled:
            self.compiled.remove(scale)
        if not torch.compiler.is_compiling():
            own = self.by_thread.get(get_ident(), [])
            if scale in own:
                own.remove(scale)
            if not own:
                self.by_thread.pop(get_ident(), None)

    def clear(self) -> None:
        """No factor in this thread."""
        for scale in list(self.scales):
            self.pop(scale)

    @property
    def scale(self) -> float:
        total = 1.0
        for factor in self.scales:
            total *= factor
        return total


class Value(nn.Module):
    """One tensor as a module that returns it when called, so that offloading hooks treat it like any leaf.

    What it returns is a view: after the call, offloading to a disk empties the parameter itself.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self) -> Tensor:
        return self.weight.view_as(self.weight)


class FixedRouter(nn.Module):
    """A router without an input: logits ``[n]`` that are the same for everything; a view, as that of `Value`."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self) -> Tensor:
        return self.bias.view_as(self.bias)


class Weighed(nn.Module):
    """One adapter in one place, with what it is weighed by.

    Attributes:
        path: the place in the file's words.
        weight: the user's weight w here.
        styles: branch weights that override the router, used as given.
        gauge: w as a tensor ``[]`` for compiled code: a number would be a part of it, and another number another
            compilation. None until `set_weights` makes it.
        shares: the styles as a tensor ``[n]``, likewise.
    """

    path: str
    weight: float
    styles: tuple[float, ...] | None
    gauge: Tensor | None
    shares: Tensor | None

    def __init__(self, path: str) -> None:
        super().__init__()
        # Past nn.Module's own way of setting, which looks for parameters and modules in everything: there are hundreds.
        vars(self).update(path=path, weight=1.0, styles=None, gauge=None, shares=None)

    def _place(self) -> dict[str, Any]:
        """Where what compiled code reads is: beside the adapter's own tensors."""
        like = next(self.parameters(), None)
        if like is None or like.device.type == "meta":
            return {"device": torch.device("cpu"), "dtype": torch.float32}
        return {"device": like.device, "dtype": operator.wide_dtype(like)}

    def _follow(self) -> None:
        """Move what compiled code reads to where the adapter's own tensors are now."""
        # Tensors that are born in inference mode cannot be written to outside of it.
        with torch.inference_mode(False):
            if self.gauge is not None:
                vars(self)["gauge"] = torch.tensor(self.weight, **self._place())
            if self.shares is not None:
                vars(self)["shares"] = torch.tensor(self.styles, **self._place())


@torch.inference_mode(False)
@torch.no_grad()
def set_weights(weighed: Iterable[tuple[Any, float]]) -> None:
    """Give adapters of layers their weights, in place where compiled code reads them."""
    for adapter, number in weighed:
        own = adapter.__dict__
        own["weight"] = number
        if own["gauge"] is None:
            own["gauge"] = torch.tensor(number, **adapter._place())
        else:
            own["gauge"].fill_(number)


@torch.inference_mode(False)
@torch.no_grad()
def give_styles(adapters: Iterable[Any], styles: tuple[float, ...] | None) -> None:
    """Give adapters of layers with the same branches their styles, in place where compiled code reads them."""
    fresh: dict[Any, Tensor] = {}
    filled: set[int] = set()
    for adapter in adapters:
        own = adapter.__dict__
        own["styles"] = styles
        if styles is None:
            own["shares"] = None
            continue
        place = adapter._place()
        key = tuple(place.values())
        if key not in fresh:
            fresh[key] = torch.tensor(styles, **place)
        if own["shares"] is None:
            own["shares"] = fresh[key]
        elif id(own["shares"]) not in filled:
            own["shares"].copy_(fresh[key])
            filled.add(id(own["shares"]))


class LayerAdapter(Weighed):
    """One adapter in one layer: its tensors as leaves, and their contribution.

    Leaves, each present where the adapter has it: ``down``, ``core`` and ``up`` (nn.Linear or nn.Conv2d), ``router``
    (nn.Linear, or `FixedRouter`), and `Value` for every other leaf: ``gain``, ``turn``, ``weight_delta``, ``kron`` ….

    Attributes:
        kind: how the base module treats its input.
        branches: n, 0 without a low-rank pair.
        rank: r, of the whole layer where the base convolution is grouped.
        alpha: numerator of the scale alpha / rank.
        casts_inputs: whether leaves are given their weights' dtype; not where hooks cast the weights themselves.
    """

    kind: Kind
    branches: int
    rank: int
    alpha: float | None
    transform: Transform
    pool: Pool
    groups: int
    casts_inputs: bool

    def __init__(
        self,
        path: str,
        kind: Kind,
        leaves: dict[str, nn.Module],
        *,
        branches: int = 0,
        rank: int = 0,
        alpha: float | None = None,
        transform: Transform = "add",
        pool: Pool = "mean",
        groups: int = 1,
    ) -> None:
        super().__init__(path)
        vars(self).update(
            kind=kind, branches=branches, rank=rank, alpha=alpha, transform=transform, pool=pool, groups=groups,
            casts_inputs=True,
        )  # fmt: skip
        self._modules.update(leaves)

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return 1.0 if self.alpha is None or self.rank == 0 else self.alpha / self.rank

    def forward(
        self,
        base: nn.Module,
        x: Tensor,
        h: Tensor,
        weight: float | Tensor,
        chosen: operator.Selection | None,
        factors: tuple[float, ...] | None = None,
    ) -> Tensor:
        """The contribution c to the base output.

        Args:
            base: the base module, called with a batch.
            x: its input.
            h: its output.
            weight: w, in compiled code ``[]``; or ``[N]``, one for every instance.
            chosen: the branches that act in place of the router.
            factors: of each branch's weight, where the router decides.

        Returns:
            A tensor of h's shape and dtype.
        """
        u, parts = h, []
        linear = self._linear_part(base, x, h)
        if linear is not None:
            parts.append(_weighed(linear, weight))
            u = h + parts[0]
        if self.branches:
            # One weight is cheapest at the rank; where every instance has its own, the product is weighed.
            if isinstance(weight, Tensor) and weight.ndim:
                dh = _weighed(self._low_rank(x, h, self.scale, chosen, factors), weight)
            else:
                dh = self._low_rank(x, h, weight * self.scale, chosen, factors)
            axes = operator.inner_axes(h.ndim, self.kind.channels_last)
            parts.append(operator.apply_transform(self.transform, u, dh, axes))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LayerAdapter:
        for name, leaf in self.named_children():
            leaf._apply(partial(_gently, fn, 4 if name in PRECISE else 2))  # type: ignore[no-untyped-call]
        self._follow()
        return self

    def value(self, name: str, like: Tensor) -> Tensor | None:
        """An optional tensor in the dtype and on the device of ``like``."""
        leaf = self._modules.get(name)
        if leaf is None:
            return None
        value: Tensor = leaf()
        return value.to(like.device, like.dtype)

    def _gain(self, name: str, like: Tensor) -> Tensor | None:
        """gain − 1, subtracted before it is rounded to the dtype of ``like``."""
        leaf = self._modules.get(name)
        return None if leaf is None else (operator.wide(leaf()) - 1).to(like.device, like.dtype)

    def _linear_part(self, base: nn.Module, x: Tensor, h: Tensor) -> Tensor | None:
        """(gain − 1) ⊙ h + turn h + W0((gain_in − 1) ⊙ x + turn_in x) + weight_delta x + bias_delta, where present."""
        last = self.kind.channels_last
        gain, gain_in = self._gain("gain", h), self._gain("gain_in", x)
        turn, turn_in = self.value("turn", h), self.value("turn_in", x)
        delta, bias = self.value("weight_delta", h), self.value("bias_delta", h)
        parts = []
        if gain is not None:
            parts.append(operator.on_channels(gain, h.ndim, last) * h)
        if turn is not None:
            parts.append(operator.turn_channels(turn, h, last))
        if gain_in is not None:
            parts.append(product(base, operator.on_channels(gain_in, x.ndim, last) * x).to(h.dtype))
        if turn_in is not None:
            parts.append(product(base, operator.turn_channels(turn_in, x, last)).to(h.dtype))
        if delta is not None:
            parts.append(self._delta_product(base, x, delta, h).to(h.dtype))
        if bias is not None:
            parts.append(operator.on_channels(bias, h.ndim, last).expand_as(h))
        return sum(parts[1:], parts[0]) if parts else None

    def _delta_product(self, base: nn.Module, x: Tensor, delta: Tensor, h: Tensor) -> Tensor:
        """weight_delta x; kron(kron, weight_delta) x where the delta is a Kronecker factor."""
        x = x.to(h.dtype) if x.dtype.is_floating_point else x
        kron = None if self.branches else self.value("kron", h)
        if kron is None:
            return evaluate(base, x, delta, None)
        split = _Blocks(x, kron, self.kind)
        return split.join(split.apply(evaluate(base, split.x, delta, None)))

    def _low_rank(
        self,
        x: Tensor,
        h: Tensor,
        scale: float | Tensor,
        chosen: operator.Selection | None,
        factors: tuple[float, ...] | None,
    ) -> Tensor:
        """scale · B · Σ_i s_i A_i x; with a core, A_i x = core_i ∗ (down x)."""
        down, core, up = self._modules["down"], self._modules.get("core"), self._modules["up"]
        assert down is not None
        assert up is not None
        kron = self.value("kron", h)
        split = None if kron is None else _Blocks(x, kron, self.kind)
        s = self._routed(x, h) if chosen is None else chosen.s
        if s is not None and chosen is None and factors is not None:
            s = s * torch.tensor(factors, device=s.device, dtype=s.dtype)
        inner = x if split is None else split.x
        if core is None:
            z = self._mixed_product(down, inner, h, s, chosen) * scale
        else:
            z = self._mixed_product(core, self._call(down, inner, h.dtype), h, s, chosen) * scale
        if split is not None:
            z = split.apply(z)
        dh = self._call(up, z, h.dtype)
        return (dh if split is None else split.join(dh)).to(h.dtype)

    def _mixed_product(
        self, branched: nn.Module, x: Tensor, h: Tensor, s: Tensor | None, chosen: operator.Selection | None
    ) -> Tensor:
        """Σ_i s_i (A_i x) of the leaf that has a part for each branch: down, or the core."""
        if s is None:
            return self._call(branched, x, h.dtype)
        if not is_plain(branched):
            s = s if chosen is None else chosen.whole()
            return operator.weigh(self._call(branched, x, h.dtype), s, self.kind.channels_last)
        x, weight = _align(x, _parameter(branched, "weight"), h.dtype)
        weight = weight if chosen is None else chosen.of(weight)
        positions = h.shape[1:-1].numel() if self.kind.channels_last else h.shape[2:].numel()
        if operator.mixing_pays(s.shape[-1], h.shape[0], positions, constant=s.ndim == 1):
            return _with_weight(branched, x, operator.mix(weight, s))
        return operator.weigh(_with_weight(branched, x, weight), s, self.kind.channels_last)

    def chosen(self, like: Tensor) -> operator.Selection | None:
        """The styles that were set, None where the router decides."""
        if torch.compiler.is_compiling():
            if self.shares is None:
                return None
            return operator.Selection(None, self.shares.to(like.device, operator.wide_dtype(like)), self.branches)
        return None if self.styles is None else operator.select([self.styles], like)

    def _routed(self, x: Tensor, h: Tensor) -> Tensor | None:
        """The router's s as ``[n]`` or ``[N, n]``; None for the single branch of a layer without a router."""
        router = self._modules.get("router")
        if router is None:
            return None
        if isinstance(router, FixedRouter):
            logits = operator.wide(router().to(h.device))
            return operator.route(logits, None, logits)
        pooled = operator.pool(x, operator.inner_axes(x.ndim, self.kind.channels_last))
        if is_plain(router):
            weight, bias = _parameter(router, "weight"), _parameter(router, "bias")
            return operator.route(pooled, weight.to(h.device), bias.to(h.device))
        if self.casts_inputs:
            pooled = pooled.to(_compute_dtype(router, h.dtype))
        return torch.softmax(operator.wide(router(pooled)), dim=-1)

    def _call(self, leaf: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
        """leaf(x), through the leaf itself wherever a hook may be waiting for the call."""
        if not is_plain(leaf):
            keeps = operator.is_autocast_on(x.device) or not self.casts_inputs
            result: Tensor = leaf(x if keeps else x.to(_compute_dtype(leaf, dtype)))
            return result
        x, weight = _align(x, _parameter(leaf, "weight"), dtype)
        return _with_weight(leaf, x, weight)


#: Threads that look for modules to adapt.
_LOOKING: set[int] = set()


@contextmanager
def hide_guests() -> Iterator[None]:
    """While the body runs, this thread finds the modules of the base alone: none of ours is there to be adapted."""
    own = get_ident()
    before = own in _LOOKING
    _LOOKING.add(own)
    try:
        yield
    finally:
        if not before:
            _LOOKING.discard(own)


def all_modules(root: nn.Module) -> Iterator[nn.Module]:
    """Every module below ``root`` once, itself and ours included, whoever looks: faster than ``root.modules()``."""
    seen, left = {root}, [root]
    while left:
        module = left.pop()
        yield module
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                left.append(child)


def put_child(parent: nn.Module, name: str, child: nn.Module) -> None:
    """A child more, in a new table: other threads may be walking over the old one."""
    parent.__dict__["_modules"] = {**parent._modules, name: child}


def take_child(parent: nn.Module, name: str) -> None:
    """A child less, in a new table."""
    parent.__dict__["_modules"] = {key: child for key, child in parent._modules.items() if key != name}


class GuestLayer(nn.ModuleDict):
    """The adapters that stand beside a base object, by name: PEFT looks for a dictionary of modules with these names.

    They are in the state of the model that was adapted, and in no part's of it. Other models are made of parts of a
    model, weight by weight (``ControlNetModel.from_unet``), and know no adapters.

    Attributes:
        home: the base module's path in the adapted model.
        originals: what `si_hub.tuner.fusion` put aside of it.
    """

    home: str | None = None
    originals: Any = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GuestLayer:
        # Children go first: the base's own parameters are still what they were.
        if self.originals is not None:
            self.originals.follow(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __setitem__(self, name: str, adapter: nn.Module) -> None:
        put_child(self, name, adapter)

    def __delitem__(self, name: str) -> None:
        take_child(self, name)

    @property
    def adapters(self) -> GuestLayer:
        """By adapter name."""
        return self

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """As every module's, but empty for a thread that looks for modules to adapt, and where the base is asked.

        Group offloading stores what a base module calls its parameters, and what ours calls its own, each for itself.
        """
        beside = bool(self.home) and "." not in prefix and prefix.startswith(CHILD)
        if not beside and not (_LOOKING and get_ident() in _LOOKING):
            yield from super().named_modules(memo, prefix, remove_duplicate)

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The tensors by name; none where a part of the model that this layer was put into is asked for its own."""
        kept = kwargs.get("destination")
        if kept is not None and self.home is not None and not _is_whole(prefix, self.home):
            return kept  # type: ignore[no-any-return]
        return super().state_dict(*args, prefix=prefix, **kwargs)


#: Levels that others put between a model's modules.
_WRAPPERS = {"base_layer", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def _is_whole(prefix: str, home: str) -> bool:
    """Whether a prefix of a state dict's names (``…{home}.styleinject_layer.``) begins at the whole model or above."""
    found, wanted = (
        [part for part in path.split(".") if part and part not in _WRAPPERS] for path in (prefix, f"{home}.{CHILD}")
    )
    return found[-len(wanted) :][:-1] == wanted[:-1]


class StyleInjectLayer(GuestLayer):
    """All adapters of one base module.

    Attributes:
        active: names that act, sorted, so that the order of loading never changes a bit of the sum.
    """

    def __init__(self, control: Control) -> None:
        super().__init__()
        self.control = control
        self.active: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> LayerAdapter:
        adapter = self._modules[name]
        assert isinstance(adapter, LayerAdapter)
        return adapter

    def hook(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        """The forward hook on the base module: output + Σ_a c_a, or None (output as it is) where nothing acts."""
        scale = self.control.scale
        compiling = torch.compiler.is_compiling()
        if compiling and self.control.standing is not None:
            raise UsageError("a compiled model cannot follow weights that change by step", hint="Leave it uncompiled")
        call = None if compiling else current_call(self.control)
        if call is not None:
            x = args[0] if args else next(iter(kwargs.values()))
            return self._answer(call, base, x.to(output.device), output, scale)
        # Looked up once: another thread may choose others, or take one away, meanwhile.
        acting = [adapter for adapter in map(self._modules.get, self.active) if isinstance(adapter, LayerAdapter)]
        # An empty batch gets nothing, and has no shapes to split.
        if not acting or scale == 0 or output.numel() == 0:
            return None
        x = (args[0] if args else next(iter(kwargs.values()))).to(output.device)
        bare = output.ndim == acting[0].kind.bare_axes
        h, x = (output[None], x[None]) if bare else (output, x)
        total: Tensor | None = None
        for adapter in acting:
            weight = acting_weight(adapter) * scale
            if compiling or weight != 0:
                part = adapter(base, x, h, weight, adapter.chosen(h))
                total = part if total is None else total + part
        if total is None:
            return None
        return output + (total[0] if bare else total)

    def _answer(self, call: ModelRun, base: nn.Module, x: Tensor, output: Tensor, scale: float) -> Tensor | None:
        """What a request asks for, in place of `active`."""
        names = sorted(call.plan.names & self._modules.keys())
        found = [(name, adapter) for name in names if isinstance(adapter := self._modules.get(name), LayerAdapter)]
        if not found or scale == 0 or output.numel() == 0:
            return None
        bare = output.ndim == found[0][1].kind.bare_axes
        h, x = (output[None], x[None]) if bare else (output, x)
        total: Tensor | None = None
        for name, adapter in found:
            for share in call.shares(name, adapter.path, adapter.branches, h, adapter.kind.channels_last):
                index = slice(None) if share.index is None else share.index
                part = adapter(base, x[index], h[index], share.weight * scale, share.styles, share.factors)
                part = part if share.mask is None else part * share.mask
                if share.index is not None:
                    part = torch.zeros_like(h).index_copy(0, share.index, part.to(h.dtype))
                total = part if total is None else total + part
        if total is None:
            return None
        return output + (total[0] if bare else total)

    def attach(self, base: nn.Module) -> None:
        put_child(base, CHILD, self)
        base.register_forward_hook(self.hook, with_kwargs=True)

    def detach(self, base: nn.Module) -> None:
        """Undo `attach`, also on a deep copy, whose hook handle nobody holds."""
        for key, hook in list(base._forward_hooks.items()):
            if getattr(hook, "__self__", None) is self:
                del base._forward_hooks[key]
                base._forward_hooks_with_kwargs.pop(key, None)
        take_child(base, CHILD)


class _Blocks:
    """x with its channels split into i1 blocks, for kron(K, M) x without ever expanding kron(K, M)."""

    def __init__(self, x: Tensor, kron: Tensor, kind: Kind) -> None:
        self.kron = kron
        self.last = kind.channels_last
        self.instances = 0 if self.last else x.shape[0]
        inner = kron.shape[1]
        self.x = operator.unflatten(x, -1, inner) if self.last else operator.unflatten(x, 1, inner).flatten(0, 1)

    def apply(self, product: Tensor) -> Tensor:
        return operator.transpose_kron(product, self.kron, self.instances)

    def join(self, product: Tensor) -> Tensor:
        if self.last:
            return product.flatten(-2)
        return product.reshape(self.instances, -1, *product.shape[2:])


def _gently(fn: Callable[[Tensor], Tensor], itemsize: int, tensor: Tensor) -> Tensor:
    """What ``nn.Module._apply`` asks for, but in no narrower a dtype than ``itemsize`` bytes, or the tensor's own.

    Layerwise casting stores a base layer with all its children in float8; an adapter would lose its precision.
    """
    try:
        moved = fn(tensor)
    except (TypeError, RuntimeError):
        # Apple's devices and some of Intel's take no float64, which a file's gains may be.
        if tensor.dtype != torch.float64:
            raise
        moved = fn(tensor.float())
    lossy = moved.itemsize < min(itemsize, tensor.itemsize)
    return tensor.to(moved.device) if lossy else moved


def acting_weight(adapter: Weighed) -> float | Tensor:
    """The weight that acts: a number, or in compiled code a tensor whose number may change."""
    if not torch.compiler.is_compiling():
        return adapter.weight
    return adapter.weight if adapter.gauge is None else adapter.gauge


def _weighed(tensor: Tensor, weight: float | Tensor) -> Tensor:
    """weight · tensor; a weight per instance is float32 or wider, and the result is rounded once."""
    if not isinstance(weight, Tensor) or not weight.ndim:
        return weight * tensor
    return (weight.reshape(-1, *[1] * (tensor.ndim - 1)) * tensor).to(tensor.dtype)


def _parameter(module: nn.Module, name: str) -> Tensor:
    value = getattr(module, name)
    assert isinstance(value, Tensor)
    return value


def _align(x: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Input and weight in one dtype: the weight's, for trainable float32 leaves too, but never float8."""
    weight = weight.to(x.device, dtype if weight.dtype in FLOAT8 else weight.dtype)
    if operator.is_autocast_on(x.device):
        return x, weight
    return x.to(weight.dtype), weight


def _compute_dtype(leaf: nn.Module, dtype: torch.dtype) -> torch.dtype:
    """The dtype a leaf computes in: its weight's own, but ``dtype`` where float8 is only how it is stored."""
    stored = _parameter(leaf, "weight").dtype
    return dtype if stored in FLOAT8 else stored


def _with_weight(leaf: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The leaf's product with another weight, one for the batch or one per instance (``[N, r, ...]``)."""
    if isinstance(leaf, nn.Conv2d):
        return _convolve_grouped(leaf, x, weight) if weight.ndim == 5 else leaf._conv_forward(x, weight, None)
    if weight.ndim == 2:
        return F.linear(x, weight)
    product = torch.bmm(x.reshape(x.shape[0], -1, x.shape[-1]), weight.mT)
    return product.reshape(*x.shape[:-1], -1)


def _convolve_grouped(leaf: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """A convolution with its own weight per instance: the batch becomes groups of one instance."""
    instances, padding = x.shape[0], leaf.padding
    if leaf.padding_mode != "zeros":
        x = F.pad(x, leaf._reversed_padding_repeated_twice, mode=leaf.padding_mode)
        padding = (0, 0)
    folded = x.reshape(1, -1, *x.shape[2:])
    out = F.conv2d(folded, weight.flatten(0, 1), None, leaf.stride, padding, leaf.dilation, instances)
    return out.reshape(instances, -1, *out.shape[2:])
