"""What an adapter needs to know of a base module's class, in one table."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.errors import BaseMismatch

FLOAT8 = {dtype for name in dir(torch) if name.startswith("float8") for dtype in [getattr(torch, name)]}


@dataclass(frozen=True, slots=True)
class Kind:
    """How a base module treats its input.

    Attributes:
        name: ``linear``, ``conv``, ``norm`` or ``embedding``.
        channels_last: whether channels are the last axis; else they are axis 1.
    """

    name: str
    channels_last: bool

    @property
    def bare_axes(self) -> int:
        """Axes of an input without a batch axis; 0 where there is no such input (GroupNorm's has instances always)."""
        return 1 if self.channels_last else 3 if self.name == "conv" else 0

    @property
    def low_rank(self) -> bool:
        """Whether the module is a product W0 x that can carry down, up, gain_in, turns and kron."""
        return self.name in {"linear", "conv"}


_LAST = Kind("norm", True)
_KINDS: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.Conv2d, Kind("conv", False)),
    (nn.Embedding, Kind("embedding", True)),
    (nn.LayerNorm, _LAST),
    (nn.GroupNorm, Kind("norm", False)),
    (nn.RMSNorm, _LAST),
)
#: Classes outside torch whose forward is linear in ``weight`` and ``bias`` over the last axis: y = norm(x) · weight.
_LINEAR_NORMS = {"RMSNorm", "T5LayerNorm", "LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
#: Linear by class, but its owner reads the weight and never calls it, so that a hook would never fire.
_NEVER_CALLED = {"NonDynamicallyQuantizableLinear"}
#: Parameters of a module that can be adapted → the leaf of its layer that changes them.
_OWNED = {"weight": "weight_delta", "bias": "bias_delta"}
#: What diffusers' attention calls instead of which layers, in order, once ``fuse_qkv_projections`` was called.
CALLED_INSTEAD = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}


def kind_of(module: nn.Module, path: str) -> Kind:
    """The kind of a base module, quantised linear layers included.

    Raises:
        BaseMismatch: for a class that is not known to be linear in its parameters, or that is never called.
    """
    name = type(module).__name__
    if name in _NEVER_CALLED:
        raise BaseMismatch(
            f"{name} is read by its parent and never called, so nothing can be added to its output",
            key=path,
            hint="Leave this module out of the adapter",
        )
    for cls, kind in _KINDS:
        if isinstance(module, cls):
            return kind
    if isinstance(getattr(module, "in_features", None), int) and isinstance(getattr(module, "out_features", None), int):
        return Kind("linear", True)
    if name in _LINEAR_NORMS:
        return _LAST
    raise BaseMismatch(
        f"a module of class {name} cannot be adapted",
        key=path,
        expected="Linear, Conv2d, Embedding, LayerNorm, GroupNorm or RMSNorm",
        found=f"{type(module).__module__}.{name}",
        hint="Leave this module out of the adapter",
    )


def check_bare(owner: nn.Module, path: str) -> None:
    """Raise BaseMismatch for a parameter that a layer of an adapter changes already: it has one owner."""
    leaf = _OWNED.get(path.rpartition(".")[2])
    try:
        kind_of(owner, path)
    except BaseMismatch:
        return
    if leaf is not None:
        raise BaseMismatch(
            f"is no bare parameter but belongs to a {type(owner).__name__}",
            key=path,
            expected=leaf,
            found="param_delta",
            hint=f"Store it as {leaf} of its module",
        )


def check_called(parent: nn.Module, path: str) -> None:
    """Raise BaseMismatch for an attention's projection that is not called because the projections are fused."""
    name = path.rpartition(".")[2]
    instead = [fused for fused, layers in CALLED_INSTEAD.items() if name in layers and fused in parent._modules]
    if instead and _calls_fused(parent):
        raise BaseMismatch(
            f"the projections are fused, {instead[0]} is called instead",
            key=path,
            hint="Call unfuse_qkv_projections() first; once the adapter is loaded and fused they can be fused again",
        )


def _calls_fused(attention: nn.Module) -> bool:
    """Whether diffusers' attention calls its fused projections.

    Its older class has no way to unfuse: flag and layer stay, and the model's ``unfuse_qkv_projections`` gives it back
    the processor that it had.
    """
    if not getattr(attention, "fused_projections", False):
        return False
    processor = getattr(attention, "processor", None)
    return hasattr(attention, "unfuse_projections") or type(processor).__name__.startswith("Fused")


def weight_shape(module: nn.Module, kind: Kind) -> tuple[int, ...]:
    """Shape of the base weight, also where the weight itself is packed by quantisation; ``()`` where there is none."""
    sizes: Any = module
    if kind.name == "linear":
        return (sizes.out_features, sizes.in_features)
    weight = module._parameters.get("weight")
    return () if weight is None else tuple(weight.shape)


def channels(module: nn.Module, kind: Kind) -> tuple[int, int]:
    """Input and output channels of a linear layer or convolution."""
    sizes: Any = module
    if kind.name == "linear":
        return sizes.in_features, sizes.out_features
    return sizes.in_channels, sizes.out_channels


def bias_shape(module: nn.Module, kind: Kind) -> tuple[int, ...]:
    """Shape that a bias of the module has, whether it has one or not."""
    shape = weight_shape(module, kind)
    if kind.name == "norm":
        sizes: Any = module
        return shape or (tuple(sizes.normalized_shape) if kind.channels_last else (sizes.num_channels,))
    return shape[-1:] if kind.name == "embedding" else shape[:1]


def is_plain(module: nn.Module) -> bool:
    """Whether reading the module's weight is the same as calling it.

    Offloading and casting hooks act when a module is called: a replaced ``forward`` (accelerate, diffusers), a
    forward hook, or a parametrization means that only a call gives the right weight.
    """
    return not (
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or hasattr(module, "parametrizations")
        or type(module).__module__.split(".")[0] not in {"torch", "si_hub"}
    )


def is_readable(module: nn.Module) -> bool:
    """Whether a base module's floating-point weight can be used in a product of our own.

    Its forward hooks do not matter here (ours is one of them), a replaced ``forward`` does.
    """
    weight = module._parameters.get("weight")
    return (
        "forward" not in module.__dict__
        and type(module) in {nn.Linear, nn.Conv2d}
        and weight is not None
        and type(weight) in {nn.Parameter, Tensor}
        and weight.dtype.is_floating_point
        and weight.dtype not in FLOAT8
        and weight.device.type != "meta"
    )


def product(module: nn.Module, x: Tensor) -> Tensor:
    """W0 x: the base product without its bias, through the module's own forward where its weight is not readable."""
    if is_readable(module):
        return evaluate(module, x, module._parameters["weight"], None)
    with _without_bias(module):
        return module.forward(x)  # type: ignore[no-any-return]


def evaluate(module: nn.Module, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The module's own function of x with other parameters, its hooks left out.

    Exact for every kind of `kind_of`: all are linear in (weight, bias).
    """
    if isinstance(getattr(module, "in_features", None), int):
        # Also for quantised layers, whose own forward unpacks what it takes for a packed weight.
        assert weight is not None
        return nn.functional.linear(x, weight, bias)
    if isinstance(module, nn.Conv2d):
        assert weight is not None
        convolved: Tensor = module._conv_forward(x, weight, bias)
        return convolved
    if not module._parameters.keys() & {"weight", "bias"}:
        raise BaseMismatch("the module has no floating-point parameters", found=type(module).__name__)
    twin = copy.copy(module)
    twin.__dict__ = {key: value for key, value in module.__dict__.items() if key != "forward"}
    twin._parameters = {**module._parameters, "weight": weight, "bias": bias}  # type: ignore[dict-item]
    result: Tensor = type(module).forward(twin, x)
    return result


@contextmanager
def _without_bias(module: nn.Module) -> Iterator[None]:
    bias = module._parameters.get("bias")
    if bias is None:
        yield
        return
    module._parameters["bias"] = None
    try:
        yield
    finally:
        module._parameters["bias"] = bias


def working_dtype(module: nn.Module, model: nn.Module) -> torch.dtype:
    """The dtype that a base module computes in: its weight's, or the compute dtype of a quantised or float8 base."""
    declared = getattr(module, "compute_dtype", None)
    if isinstance(declared, torch.dtype):
        return declared
    registry = getattr(module, "_diffusers_hook", None)
    for hook in getattr(registry, "hooks", {}).values():
        if isinstance(getattr(hook, "compute_dtype", None), torch.dtype):
            return hook.compute_dtype  # type: ignore[no-any-return]
    for parameter in chain(module.parameters(recurse=False), model.parameters()):
        if parameter.dtype.is_floating_point and parameter.dtype not in FLOAT8:
            return parameter.dtype
    return torch.get_default_dtype()


def working_device(module: nn.Module) -> torch.device:
    """The device to keep an adapter's tensors on: that of the base weight, the CPU for an offloaded one."""
    weight = next(module.parameters(recurse=False), None)
    if weight is None or weight.device.type == "meta":
        return torch.device("cpu")
    return weight.device


def has_float64(device: torch.device) -> bool:
    """Whether a device computes with float64: Apple's do not, and some of Intel's."""
    if device.type == "xpu":
        return bool(getattr(torch.xpu.get_device_properties(device), "has_fp64", False))
    return device.type != "mps"
