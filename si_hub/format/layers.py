"""Tensor names ↔ layers, and every rule that the shapes of one layer must keep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from si_hub.adapter import LEAVES, Layer
from si_hub.errors import BadTensorName, LayerShapeError, LeafDtypeError, MissingTensor, UnknownLeaf
from si_hub.storage.tensors import Tensor

FLOATS = frozenset({
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
})  # fmt: skip
NAME_LIMIT = 512
#: Vectors of all textual inversions of one text encoder; a prompt has room for a few hundred.
ROWS_LIMIT = 512

_COMPONENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
#: The leaf of a textual inversion, `{text encoder}.embedding.{token}`: no module path stands before it.
EMBEDDING = "embedding"


@dataclass(slots=True)
class Tensors:
    """The tensors of one component, as their names say: by module and leaf, embeddings by token."""

    layers: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)


def holds_text(component: str) -> bool:
    """Whether a component of this name is a text encoder, where ``embedding.{token}`` is a textual inversion."""
    return component.startswith("text_encoder")


def split_name(name: str, file: Path | None = None) -> tuple[str, str, str]:
    """(component, module path, leaf) of a tensor name; for an embedding (component, token, "embedding").

    Raises:
        BadTensorName: empty segments, characters outside letters, digits, ``_`` and ``-``, no module path, too long.
        UnknownLeaf: the name ends in no leaf of the format.
    """
    component, _, rest = name.partition(".")
    if len(name) > NAME_LIMIT or not _COMPONENT.fullmatch(component) or not rest:
        raise BadTensorName(
            "is no tensor name", file=file, key=name[:NAME_LIMIT], expected="{component}.{module path}.{leaf}"
        )
    if holds_text(component) and rest.startswith(EMBEDDING + "."):
        token = rest[len(EMBEDDING) + 1 :]
        if not token or not token.isprintable():
            raise BadTensorName("has no printable token", file=file, key=name)
        return component, token, EMBEDDING
    segments = rest.split(".")
    if not all(map(_SEGMENT.fullmatch, segments)):
        raise BadTensorName("has an empty or unsafe segment", file=file, key=name, expected="letters, digits, _ and -")
    for words in (2, 1):
        leaf = ".".join(segments[-words:])
        if leaf in LEAVES and len(segments) >= words:
            if len(segments) == words:
                raise BadTensorName("has no module path", file=file, key=name)
            return component, ".".join(segments[:-words]), leaf
    raise UnknownLeaf("ends in no leaf of the format", file=file, key=name, expected=f"one of {', '.join(LEAVES)}")


def join_name(component: str, module: str, leaf: str) -> str:
    """The inverse of `split_name`."""
    return f"{component}.{EMBEDDING}.{module}" if leaf == EMBEDDING else f"{component}.{module}.{leaf}"


def gather(tensors: Mapping[str, Tensor], file: Path | None = None) -> dict[str, Tensors]:
    """Tensors by component, module and leaf, each name checked."""
    found: dict[str, Tensors] = {}
    for name in sorted(tensors):
        component, module, leaf = split_name(name, file)
        place = found.setdefault(component, Tensors())
        if leaf == EMBEDDING:
            place.embeddings[module] = tensors[name]
        else:
            place.layers.setdefault(module, {})[leaf] = tensors[name]
    return found


def check_embedding(tensor: Tensor, name: str, file: Path | None = None) -> None:
    """An embedding is ``[k, dim]``, floating point."""
    _check_dtype(tensor, name, file)
    if len(tensor.shape) != 2 or 0 in tensor.shape:
        raise _wrong(name, file, "an embedding is [k, dim]", "[k, dim]", tensor)


def check_layer(layer: Layer, name: str, file: Path | None = None) -> None:
    """Every rule that the tensors of one layer must keep; ``name`` is ``{component}.{module path}``.

    Raises:
        MissingTensor: half a low-rank pair, several branches without a router, nothing at all, kron with nothing.
        LeafDtypeError: a tensor that is not floating point.
        LayerShapeError: shapes that contradict each other or the leaf's definition.
    """
    tensors = layer.tensors
    for leaf, tensor in tensors.items():
        if leaf not in LEAVES or leaf in ("alpha", "down.scale"):
            raise UnknownLeaf("is no leaf of a layer", file=file, key=f"{name}.{leaf}")
        _check_dtype(tensor, f"{name}.{leaf}", file)
        if 0 in tensor.shape:
            raise _wrong(f"{name}.{leaf}", file, "has no elements", "sizes of 1 or more", tensor)
    if not tensors:
        raise MissingTensor("the layer has no tensors", file=file, key=name)
    if "param_delta" in tensors:
        if len(tensors) > 1:
            raise LayerShapeError(
                "param_delta stands alone, a bare parameter is no module", file=file, key=name, found=sorted(tensors)
            )
        return
    for rule in (_check_pair, _check_core, _check_router, _check_kron, _check_delta, _check_turns, _check_widths):
        rule(layer, name, file)


def _check_dtype(tensor: Tensor, name: str, file: Path | None) -> None:
    if tensor.dtype not in FLOATS:
        raise LeafDtypeError("is not floating point", file=file, key=name, found=tensor.dtype)


def _check_pair(layer: Layer, name: str, file: Path | None) -> None:
    down, up = layer.tensors.get("down.weight"), layer.tensors.get("up.weight")
    if down is None and up is None:
        return
    if down is None or up is None:
        missing = "down.weight" if down is None else "up.weight"
        raise MissingTensor("half of a low-rank pair is missing", file=file, key=f"{name}.{missing}")
    if layer.groups < 1:
        raise _wrong(f"{name}.up.weight", file, "groups are counted from 1", "1 or more groups", up)
    if len(up.shape) != 2:
        raise _wrong(f"{name}.up.weight", file, "up.weight is a matrix", "[out, rank]", up)
    if not 2 <= len(down.shape) <= 5:
        raise _wrong(f"{name}.down.weight", file, "down.weight has another form", "[n * rank, in, *kernel]", down)
    first = "core" if "core.weight" in layer.tensors else "down"
    rows = layer.tensors[f"{first}.weight"]
    if not rows.shape or rows.shape[0] % layer.rank:
        raise _wrong(
            f"{name}.{first}.weight", file, f"the ranks of {first} and up differ", f"a multiple of {layer.rank} rows",
            rows,
        )  # fmt: skip
    if up.shape[0] % layer.groups:
        raise _wrong(f"{name}.up.weight", file, "rows do not divide", f"a multiple of {layer.groups} groups", up)


def _check_core(layer: Layer, name: str, file: Path | None) -> None:
    core, down = layer.tensors.get("core.weight"), layer.tensors.get("down.weight")
    if core is None:
        return
    if down is None:
        raise MissingTensor("a core stands between down and up", file=file, key=f"{name}.down.weight")
    if "kron" in layer.tensors:
        raise _wrong(f"{name}.kron", file, "kron is the factor of a plain pair", "none beside a core", core)
    if layer.groups > 1:
        raise _wrong(f"{name}.core.weight", file, "a core sees all inputs at once", "groups = 1", core)
    if _kernel(down):
        raise _wrong(f"{name}.down.weight", file, "before a core, down has no kernel", "[q, in]", down)
    if not 2 <= len(core.shape) <= 5 or core.shape[1] != down.shape[0]:
        raise _wrong(
            f"{name}.core.weight", file, "does not take what down gives", f"[n * rank, {down.shape[0]}, *kernel]", core
        )


def _check_router(layer: Layer, name: str, file: Path | None) -> None:
    weight, bias, n = layer.tensors.get("router.weight"), layer.tensors.get("router.bias"), layer.branches
    if n <= 1:
        for leaf, tensor in (("router.weight", weight), ("router.bias", bias)):
            if tensor is not None:
                raise _wrong(f"{name}.{leaf}", file, "a layer without several branches has no router", "none", tensor)
        return
    if bias is None:
        raise MissingTensor(f"{n} branches need a router", file=file, key=f"{name}.router.bias")
    if bias.shape != (n,):
        raise _wrong(f"{name}.router.bias", file, "one number per branch", f"[{n}]", bias)
    if weight is not None and (len(weight.shape) != 2 or weight.shape[0] != n):
        raise _wrong(f"{name}.router.weight", file, "one row per branch", f"[{n}, in]", weight)


def _check_kron(layer: Layer, name: str, file: Path | None) -> None:
    kron = layer.tensors.get("kron")
    if kron is None:
        return
    if len(kron.shape) != 2:
        raise _wrong(f"{name}.kron", file, "kron is a matrix", "[o1, i1]", kron)
    if ("weight_delta" in layer.tensors) == bool(layer.rank):
        raise MissingTensor(
            "kron needs one right factor, up·down or weight_delta, not both", file=file, key=f"{name}.kron"
        )
    if layer.branches > 1 or layer.groups > 1:
        raise _wrong(f"{name}.kron", file, "kron goes with one branch and one group", "n = 1, groups = 1", kron)


def _check_delta(layer: Layer, name: str, file: Path | None) -> None:
    delta = layer.tensors.get("weight_delta")
    spatial = next((leaf for leaf in ("core.weight", "down.weight") if leaf in layer.tensors), None)
    if delta is None:
        return
    if not delta.shape:
        raise _wrong(f"{name}.weight_delta", file, "a weight is no scalar", "the shape of the base weight", delta)
    if spatial is not None and _kernel(delta) != _kernel(layer.tensors[spatial]):
        kernel = list(layer.tensors[spatial].shape[2:])
        raise _wrong(f"{name}.weight_delta", file, f"its kernel differs from {spatial}'s", kernel, delta)


def _check_turns(layer: Layer, name: str, file: Path | None) -> None:
    for leaf in ("turn", "turn_in"):
        turn = layer.tensors.get(leaf)
        if turn is not None and (len(turn.shape) != 3 or turn.shape[1] != turn.shape[2]):
            raise _wrong(f"{name}.{leaf}", file, "is square blocks", "[blocks, size, size]", turn)


def _kernel(tensor: Tensor) -> tuple[int, ...]:
    """Kernel sizes; a 1×1 convolution and a linear layer are the same thing here."""
    kernel = tensor.shape[2:]
    return () if set(kernel) == {1} else kernel


def _check_widths(layer: Layer, name: str, file: Path | None) -> None:
    """All leaves that tell the layer's input or output width must tell the same."""
    for axis, claims in (("in", _in_widths(layer)), ("out", _out_widths(layer))):
        known = ""
        width = 0
        for leaf, claimed in claims:
            if known and claimed != width:
                raise LayerShapeError(
                    f"contradicts {known} about the layer's {axis} width", file=file, key=f"{name}.{leaf}",
                    expected=width, found=claimed,
                )  # fmt: skip
            known, width = leaf, claimed
    for leaf in ("gain", "gain_in", "bias_delta"):
        tensor = layer.tensors.get(leaf)
        if tensor is not None and len(tensor.shape) != 1:
            raise _wrong(f"{name}.{leaf}", file, "is a vector", LEAVES[leaf], tensor)


def _in_widths(layer: Layer) -> Iterator[tuple[str, int]]:
    shapes = {leaf: tensor.shape for leaf, tensor in layer.tensors.items()}
    factor = shapes["kron"][1] if "kron" in shapes else 1
    if "down.weight" in shapes:
        yield "down.weight", shapes["down.weight"][1] * factor
    if "router.weight" in shapes:
        yield "router.weight", shapes["router.weight"][1]
    if "gain_in" in shapes and len(shapes["gain_in"]) == 1:
        yield "gain_in", shapes["gain_in"][0]
    if "turn_in" in shapes:
        yield "turn_in", shapes["turn_in"][0] * shapes["turn_in"][1]
    delta = shapes.get("weight_delta", ())
    if len(delta) == 2 or (layer.rank and len(delta) > 2):
        yield "weight_delta", delta[1] * layer.groups * factor


def _out_widths(layer: Layer) -> Iterator[tuple[str, int]]:
    shapes = {leaf: tensor.shape for leaf, tensor in layer.tensors.items()}
    factor = shapes["kron"][0] if "kron" in shapes else 1
    if "up.weight" in shapes:
        yield "up.weight", shapes["up.weight"][0] * factor
    for leaf in ("gain", "bias_delta"):
        if leaf in shapes and len(shapes[leaf]) == 1:
            yield leaf, shapes[leaf][0]
    if "turn" in shapes:
        yield "turn", shapes["turn"][0] * shapes["turn"][1]
    # A transposed convolution has its input channels first: only a pair proves that this module is none.
    delta = shapes.get("weight_delta", ())
    if len(delta) in (1, 2) or (layer.rank and len(delta) > 2):
        yield "weight_delta", delta[0] * factor


def _wrong(key: str, file: Path | None, problem: str, expected: object, tensor: Tensor) -> LayerShapeError:
    return LayerShapeError(problem, file=file, key=key, expected=expected, found=f"{tensor.dtype} {list(tensor.shape)}")
