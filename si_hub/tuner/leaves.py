"""From the tensors of a file's layer to the leaves of a live module: shapes checked, devices and dtypes settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.adapter import Layer
from si_hub.errors import BaseMismatch, NumberOverflow
from si_hub.storage.tensors import Tensor as Stored
from si_hub.tuner.kinds import Kind, bias_shape, channels, has_float64, weight_shape
from si_hub.tuner.layer import PRECISE, FixedRouter, LayerAdapter, Value


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A tensor that does not fit the module of its name."""

    path: str
    leaf: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path}.{self.leaf}: expected {self.expected}, found {self.found}"


def read_anew(stored: Stored) -> Tensor:
    """The values of a file's tensor, in memory of their own."""
    return stored.torch()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an adapter's tensors go, and where they come from.

    Attributes:
        share: keep a tensor that already fits as it is.
        read: gives the values of a file's tensor.
    """

    device: torch.device
    dtype: torch.dtype
    share: bool
    read: Callable[[Stored], Tensor] = read_anew

    def dtype_of(self, dtype: torch.dtype, leaf: str = "") -> torch.dtype:
        """The dtype that a leaf of this dtype gets."""
        keeps = leaf.split(".")[0] in PRECISE and dtype.itemsize > 1
        placed = torch.promote_types(self.dtype, dtype) if keeps else self.dtype
        return torch.float32 if placed == torch.float64 and not has_float64(self.device) else placed

    def __call__(self, tensor: Tensor, leaf: str = "", *, key: str = "") -> Tensor:
        """The tensor where it acts; ``key`` is for errors.

        Raises:
            NumberOverflow: the dtype cannot hold one of its numbers.
        """
        dtype = self.dtype_of(tensor.dtype, leaf)
        placed = tensor.to(self.device, dtype)
        if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max:
            check_held(tensor, placed, key)
        return placed.clone() if placed is tensor and not self.share else placed


def check_held(before: Tensor, after: Tensor, key: str) -> None:
    """Whether numbers of one dtype are still numbers in another, or after adding.

    Raises:
        NumberOverflow: some are infinite now.
    """
    if lost := int((torch.isinf(after) & torch.isfinite(before).to(after.device)).sum()):
        name = str(after.dtype).removeprefix("torch.")
        raise NumberOverflow(
            f"holds numbers too large for {name}, which would be infinite in the model", key=key,
            expected=f"at most {torch.finfo(after.dtype).max:g}", found=f"{lost} of {after.numel()} beyond it",
            hint="Load the base model in a wider dtype, such as float32",
        )  # fmt: skip


#: Shape by leaf name.
Shapes = dict[str, tuple[int, ...]]


def expected_shapes(module: nn.Module, kind: Kind, layer: Layer) -> Shapes:
    """Shape by leaf name, as docs/FORMAT.md gives it, for this module; only leaves that the module can carry."""
    weight, bias = weight_shape(module, kind), bias_shape(module, kind)
    shapes = {"gain": bias, "bias_delta": bias}
    if weight:
        shapes["weight_delta"] = weight
    if not kind.low_rank:
        return shapes
    rank, branches = layer.rank, layer.branches
    into, out = channels(module, kind)
    kernel = weight[2:]
    for leaf, width in (("turn", out), ("turn_in", into)):
        blocks = layer.tensors[leaf].shape[0] if leaf in layer.tensors else 1
        # Blocks that do not divide the channels fit nowhere: one block is what is expected.
        blocks = blocks if blocks and width % blocks == 0 else 1
        shapes[leaf] = (blocks, width // blocks, width // blocks)
    kron = layer.tensors.get("kron")
    shapes |= {"router.weight": (branches, into), "router.bias": (branches,), "gain_in": (into,)}
    if kron is not None:
        o1, i1 = (*kron.shape, 0, 0)[:2]
        if len(kron.shape) != 2 or not i1 or not o1 or into % i1 or out % o1:
            shapes["kron"] = (out, into)
            return shapes
        shapes["kron"] = (o1, i1)
        into, out = into // i1, out // o1
    if kron is not None and not branches:
        shapes["weight_delta"] = (out, into, *kernel)
    groups = getattr(module, "groups", 1)
    shapes["down.weight"] = (branches * rank, into, *kernel)
    if "core.weight" in layer.tensors:
        inner = (*layer.tensors["down.weight"].shape, 0)[0] if "down.weight" in layer.tensors else 0
        shapes["down.weight"] = (inner, into, *[1] * len(kernel))
        shapes["core.weight"] = (branches * rank, inner, *kernel)
    shapes["up.weight"] = (out, rank // groups)
    return shapes


def mismatches(
    path: str, module: nn.Module, kind: Kind, layer: Layer, expected: Shapes | None = None
) -> list[Mismatch]:
    """Every tensor of the layer whose shape does not fit; kernels of one element count as none.

    Args:
        expected: `expected_shapes`, where they are known already.
    """
    expected = expected_shapes(module, kind, layer) if expected is None else expected
    wrong = []
    for leaf, tensor in layer.tensors.items():
        wanted = expected.get(leaf)
        if wanted is None:
            wrong.append(Mismatch(path, leaf, f"no {leaf} for {type(module).__name__}", str(list(tensor.shape))))
        elif _squeeze(tuple(tensor.shape)) != _squeeze(wanted):
            wrong.append(Mismatch(path, leaf, str(list(wanted)), str(list(tensor.shape))))
    groups = getattr(module, "groups", 1)
    if layer.branches and layer.groups != groups:
        wrong.append(Mismatch(path, "up.weight", f"groups {groups}", f"groups {layer.groups}"))
    return wrong


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without a 1×1 kernel, so that a linear layer and a 1×1 convolution look the same."""
    return shape[:2] if len(shape) > 2 and set(shape[2:]) == {1} else shape


def build_layer(
    path: str, module: nn.Module, kind: Kind, layer: Layer, placement: Placement, shapes: Shapes | None = None
) -> LayerAdapter:
    """The live form of a layer whose shapes fit.

    Args:
        shapes: `expected_shapes`, where they are known already.

    Raises:
        NumberOverflow: a number that the module's dtype cannot hold.
        BaseMismatch: for a layer that changes nothing, a pair without its other half, or several branches without a
            router.
    """
    shapes = expected_shapes(module, kind, layer) if shapes is None else shapes
    _check_complete(path, layer)
    branches = layer.branches

    def take(leaf: str) -> Tensor:
        return placement(placement.read(layer.tensors[leaf]).reshape(shapes[leaf]), leaf, key=f"{path}.{leaf}")

    leaves: dict[str, nn.Module] = {}
    if "core.weight" in layer.tensors:
        parts = take("down.weight"), take("core.weight"), take("up.weight")
        leaves["down"], leaves["core"], leaves["up"] = cored_pair(module, kind, *parts)
    elif branches:
        leaves["down"], leaves["up"] = pair(module, kind, take("down.weight"), take("up.weight"))
    if "router.bias" in layer.tensors:
        bias = take("router.bias")
        leaves["router"] = (
            router(take("router.weight"), bias) if "router.weight" in layer.tensors else FixedRouter(bias)
        )
    for leaf in ("gain", "gain_in", "turn", "turn_in", "weight_delta", "bias_delta", "kron"):
        if leaf in layer.tensors:
            leaves[leaf] = Value(take(leaf))
    return LayerAdapter(
        path,
        kind,
        leaves,
        branches=branches,
        rank=layer.rank,
        alpha=layer.alpha,
        transform=layer.transform,
        pool=layer.pool,
        groups=layer.groups,
    )


def _check_complete(path: str, layer: Layer) -> None:
    tensors = layer.tensors
    if not tensors.keys() - {"router.weight", "router.bias", "kron"}:
        raise BaseMismatch("the layer changes nothing", key=path, found=sorted(tensors), hint="Leave it out")
    if "core.weight" in tensors and not {"down.weight", "up.weight"} <= tensors.keys():
        missing = "up.weight" if "down.weight" in tensors else "down.weight"
        raise BaseMismatch("a core stands between down and up", key=f"{path}.{missing}")
    if "core.weight" in tensors and "kron" in tensors:
        raise BaseMismatch("kron goes with a plain pair, not with a core", key=f"{path}.kron")
    if ("down.weight" in tensors) != ("up.weight" in tensors):
        missing = "up.weight" if "down.weight" in tensors else "down.weight"
        raise BaseMismatch("half of a low-rank pair is missing", key=f"{path}.{missing}")
    if layer.branches > 1 and "router.bias" not in tensors:
        raise BaseMismatch(f"{layer.branches} branches need a router", key=f"{path}.router.bias")
    if "router.weight" in tensors and "router.bias" not in tensors:
        raise BaseMismatch("a learned router has a bias", key=f"{path}.router.bias")


def cored_pair(
    module: nn.Module, kind: Kind, down: Tensor, core: Tensor, up: Tensor
) -> tuple[nn.Module, nn.Module, nn.Module]:
    """The shared 1×1 product, the cores that compute like the base module, and B.

    Args:
        down: ``[q, in]`` or ``[q, in, 1, 1]``.
        core: ``[n * r, q]`` or ``[n * r, q, *kernel]``.
        up: ``[out, r]``.
    """
    if getattr(module, "groups", 1) > 1:
        raise BaseMismatch("a core sees all inputs at once, and the base is a grouped convolution", expected="groups 1")
    second, third = pair(module, kind, core, up)
    if kind.name == "linear":
        return _fill(nn.Linear, {"weight": down}, down.shape[1], down.shape[0]), second, third
    return _fill(nn.Conv2d, {"weight": down}, down.shape[1], down.shape[0], kernel_size=1), second, third


def pair(module: nn.Module, kind: Kind, down: Tensor, up: Tensor) -> tuple[nn.Module, nn.Module]:
    """The leaves of A and B that compute like the base module: its kernel, stride, padding and dilation.

    Args:
        down: ``[n * r, in]`` or ``[n * r, in, *kernel]``.
        up: ``[out, r / groups]``.
    """
    if kind.name == "linear":
        return _fill(nn.Linear, {"weight": down}, down.shape[1], down.shape[0]), _fill(
            nn.Linear, {"weight": up}, up.shape[1], up.shape[0]
        )
    assert isinstance(module, nn.Conv2d)
    padding: Any = module.padding
    first = _fill(
        nn.Conv2d,
        {"weight": down},
        down.shape[1],
        down.shape[0],
        kernel_size=module.kernel_size,
        stride=module.stride,
        padding=padding,
        dilation=module.dilation,
        padding_mode=module.padding_mode,
    )
    second = _fill(
        nn.Conv2d,
        {"weight": up[:, :, None, None]},
        up.shape[1] * module.groups,
        up.shape[0],
        kernel_size=1,
        groups=module.groups,
    )
    return first, second


def router(weight: Tensor, bias: Tensor) -> nn.Module:
    """The learned router: weight ``[n, in]``, bias ``[n]``."""
    return _fill(nn.Linear, {"weight": weight, "bias": bias}, weight.shape[1], weight.shape[0])


def _fill(cls: type[nn.Module], tensors: dict[str, Tensor], *args: Any, **kwargs: Any) -> nn.Module:
    """A module made without memory, around tensors that are there already."""
    leaf = _BLANK[cls](*args, bias="bias" in tensors, device="meta", **kwargs)
    leaf.__class__ = cls
    for name, tensor in tensors.items():
        leaf._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    return leaf


class _BlankLinear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing: drawing numbers that are thrown away takes longer than all else."""


class _BlankConv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """As `_BlankLinear`'s."""


_BLANK: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _BlankLinear, nn.Conv2d: _BlankConv2d}
