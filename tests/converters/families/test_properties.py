"""Every lowering by chance: shapes, ranks, dtypes, groups and scales, against its definition in NumPy and float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from si_hub import converters
from si_hub.architectures import Architecture, Model
from si_hub.architectures.model import Module
from si_hub.converters.source import Source
from si_hub.errors import SiHubError
from si_hub.storage.tensors import Tensor
from tests.converters.tiny import as_parameters

Array = np.ndarray[Any, Any]
#: Weight ``[out, columns]`` and bias of the base → what is added to each.
Define = Callable[[dict[str, Array], Array, Array], "tuple[Array, Array | None]"]
PATH, STEM = "mid_block.one", "lora_unet_mid_block_one"
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn]


@dataclass
class Case:
    """A module by chance.

    Attributes:
        shape: of the base's weight.
        rng: where its numbers come from.
        dtype: of its tensors.
        tensors: by the end of their names.
        alpha: in the file, where there is one.
        define: what it means.
        config: PEFT's.
        prefix: of the module's name.
    """

    shape: tuple[int, ...]
    rng: np.random.Generator
    dtype: torch.dtype
    kind: str = "linear"
    bias: bool = True
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    alpha: float | None = None
    define: Define = lambda held, weight, bias: (weight, None)
    config: dict[str, Any] | None = None
    stem: str = STEM

    @property
    def out(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        return math.prod(self.shape[1:])

    def add(self, name: str, *shape: int, near: float = 0.0, size: float = 0.5) -> None:
        """A tensor of random numbers around ``near``."""
        numbers = near + size * self.rng.standard_normal(shape)
        self.tensors[name] = torch.from_numpy(np.asarray(numbers)).to(self.dtype)

    def scale(self, rank: int) -> float:
        return 1.0 if self.alpha is None else self.alpha / rank

    def held(self) -> dict[str, Array]:
        return {name: one.double().numpy() for name, one in self.tensors.items()}


def flat(array: Array) -> Array:
    return array.reshape(len(array), -1)


def add_pair(case: Case, rank: int) -> Define:
    tail = case.shape[2:]
    case.add(".lora_down.weight", rank, case.shape[1], *tail)
    case.add(".lora_up.weight", case.out, rank, *(1 for _ in tail))
    if case.bias and case.rng.random() < 0.3:
        case.add(".diff_b", case.out)
    scale = case.scale(rank)
    return lambda held, weight, bias: (
        scale * flat(held[".lora_up.weight"]) @ flat(held[".lora_down.weight"]), held.get(".diff_b")
    )  # fmt: skip


def add_tucker(case: Case, rank: int) -> Define:
    other = int(case.rng.integers(1, 5))
    case.add(".lora_up.weight", case.out, rank, 1, 1)
    case.add(".lora_mid.weight", rank, other, *case.shape[2:])
    case.add(".lora_down.weight", other, case.shape[1], 1, 1)
    scale = case.scale(rank)

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        up, mid, down = (held[f".lora_{name}.weight"] for name in ("up", "mid", "down"))
        whole = np.einsum("om,mnhw,ni->oihw", up[:, :, 0, 0], mid, down[:, :, 0, 0])
        return scale * flat(whole), None

    return define


def add_loha(case: Case, rank: int) -> Define:
    other = int(case.rng.integers(1, 5))
    tucker = len(case.shape) == 4 and case.rng.random() < 0.5
    for half, inner in ((1, rank), (2, other)):
        case.add(f".hada_w{half}_a", *((inner, case.out) if tucker else (case.out, inner)))
        case.add(f".hada_w{half}_b", inner, case.shape[1] if tucker else case.columns)
        if tucker:
            case.add(f".hada_t{half}", inner, inner, *case.shape[2:])
    scale = case.scale(rank)

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        halves = []
        for half in (1, 2):
            a, b, core = (held.get(f".hada_{name}") for name in (f"w{half}_a", f"w{half}_b", f"t{half}"))
            assert a is not None
            assert b is not None
            halves.append(a @ b if core is None else flat(np.einsum("po,pqhw,qi->oihw", a, core, b)))
        return scale * halves[0] * halves[1], None

    return define


def add_lokr(case: Case, rank: int) -> Define:
    rng = case.rng

    def split(size: int) -> tuple[int, int]:
        first = int(rng.choice([one for one in range(1, size + 1) if size % one == 0]))
        return first, size // first

    (o1, o2), (i1, i2) = split(case.out), split(case.shape[1])
    left, right = rng.random() < 0.5, rng.random() < 0.5
    tucker = right and len(case.shape) == 4 and rng.random() < 0.5
    other = int(rng.integers(1, 4))
    kernel = case.shape[2:]
    if left:
        case.add(".lokr_w1_a", o1, other)
        case.add(".lokr_w1_b", other, i1)
    else:
        case.add(".lokr_w1", o1, i1)
    if tucker:
        case.add(".lokr_w2_a", rank, o2)
        case.add(".lokr_w2_b", rank, i2)
        case.add(".lokr_t2", rank, rank, *kernel)
    elif right:
        case.add(".lokr_w2_a", o2, rank)
        case.add(".lokr_w2_b", rank, i2 * math.prod(kernel))
    else:
        case.add(".lokr_w2", o2, i2, *kernel)
    scale = case.scale(rank) if right else case.scale(other) if left else 1.0

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        first = held[".lokr_w1_a"] @ held[".lokr_w1_b"] if left else held[".lokr_w1"]
        if tucker:
            second = np.einsum("po,pqhw,qi->oihw", held[".lokr_w2_a"], held[".lokr_t2"], held[".lokr_w2_b"])
        elif right:
            second = held[".lokr_w2_a"] @ held[".lokr_w2_b"]
        else:
            second = held[".lokr_w2"]
        # Block (p, q) of the product is first[p, q] times the second factor.
        rows = [np.concatenate([one * second.reshape(o2, i2, -1) for one in row], axis=1) for row in first]
        return scale * flat(np.concatenate(rows)), None

    return define


def add_full(case: Case, rank: int) -> Define:
    case.add(".diff", *case.shape)
    if case.bias:
        case.add(".diff_b", case.out)
    return lambda held, weight, bias: (flat(held[".diff"]), held.get(".diff_b"))


def add_sparse(case: Case, rank: int) -> Define:
    define = add_pair(case, rank) if case.rng.random() < 0.5 else None
    count = int(case.rng.integers(1, 9))
    rows, columns = case.rng.integers(0, case.out, count), case.rng.integers(0, case.columns, count)
    case.add(".bias_values", count)
    case.tensors[".bias_indices"] = torch.from_numpy(np.stack([rows, columns])).to(torch.int16)
    case.tensors[".bias_size"] = torch.tensor([case.out, case.columns]).int()

    def add(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, Array | None]:
        change, shift = define(held, weight, bias) if define else (np.zeros_like(weight), None)
        change = change.copy()
        np.add.at(change, (rows, columns), held[".bias_values"])
        return change, shift

    return add


def add_magnitude(case: Case, rank: int) -> Define:
    beneath = [add_pair, add_loha, add_lokr, add_full, *([add_tucker] if len(case.shape) == 4 else [])]
    define = beneath[int(case.rng.integers(len(beneath)))](case, rank)
    on_inputs = case.rng.random() < 0.5
    case.tensors.pop(".diff_b", None)
    ones = tuple(1 for _ in case.shape[2:])
    case.add(".dora_scale", *((1, case.shape[1]) if on_inputs else (case.out, 1)), *ones, near=3.0)

    def decompose(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        change, _ = define(held, weight, bias)
        whole = (weight + change).reshape(case.shape)
        axes = tuple(axis for axis in range(whole.ndim) if axis != int(on_inputs))
        norms = np.sqrt((whole**2).sum(axes, keepdims=True))
        return flat(whole * held[".dora_scale"] / norms) - weight, None

    return decompose


def add_ia3(case: Case, rank: int) -> Define:
    on_inputs = bool(case.rng.random() < 0.5)
    case.add(".weight", case.shape[int(on_inputs)])
    case.tensors[".on_input"] = torch.tensor(on_inputs)
    case.alpha = None

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        factors = held[".weight"].reshape((1, -1) if on_inputs else (-1, 1), order="C")
        return (weight.reshape(case.out, case.shape[1], -1) * factors[..., None]).reshape(weight.shape), None

    return define


def add_ia3_of_peft(case: Case, rank: int) -> Define:
    on_inputs = bool(case.rng.random() < 0.5)
    ones = tuple(1 for _ in case.shape[2:])
    case.alpha, case.stem = None, f"base_model.model.{PATH}"
    case.config = {"peft_type": "IA3", "feedforward_modules": [PATH] if on_inputs else []}
    # Convolutions have theirs on the second axis either way, which PEFT then multiplies outputs with.
    case.add(".ia3_l", *((1, case.shape[1]) if on_inputs else (case.out, 1)), *ones, near=1.0)

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, Array | None]:
        factors = held[".ia3_l"].reshape((1, -1, 1) if on_inputs else (-1, 1, 1)) - 1
        changed = (weight.reshape(case.out, case.shape[1], -1) * factors).reshape(weight.shape)
        return changed, None if on_inputs else bias * factors.ravel()

    return define


def add_glora(case: Case, rank: int) -> Define:
    old = case.rng.random() < 0.5
    rank = min(rank, case.out - 1)
    a, b, c, d = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    ones = tuple(1 for _ in case.shape[2:])
    case.add(f".{a}.weight", case.shape[1], rank, *ones)
    case.add(f".{b}.weight", rank, case.shape[1], *ones)
    case.add(f".{c}.weight", case.out, rank, *ones)
    case.add(f".{d}.weight", rank, *case.shape[1:])
    scale = case.scale(rank)

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        mix = flat(held[f".{a}.weight"]) @ flat(held[f".{b}.weight"])
        mixed = np.einsum("oik,ij->ojk", weight.reshape(case.out, case.shape[1], -1), mix)
        return scale * (flat(mixed) + flat(held[f".{c}.weight"]) @ flat(held[f".{d}.weight"])), None

    return define


def cayley(blocks: Array, most: float | None) -> Array:
    skew = blocks - blocks.swapaxes(-1, -2)
    norm = float(np.linalg.norm(skew))
    if most is not None and norm > most:
        skew = skew * (most / norm)
    one = np.eye(skew.shape[-1])
    turns: Array = (one + skew) @ np.linalg.inv(one - skew)
    return turns


def add_oft(case: Case, rank: int) -> Define:
    sizes = [size for size in range(1, case.out + 1) if case.out % size == 0]
    size = int(case.rng.choice(sizes))
    case.add(".oft_blocks", case.out // size, size, size, size=0.2)
    rescaled = case.rng.random() < 0.4
    if rescaled:
        case.add(".rescale", case.out, *(1 for _ in case.shape[1:]), near=1.0, size=0.1)
    most = None if case.alpha is None else case.alpha * case.out

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        turned = np.empty_like(weight)
        for at, turn in enumerate(cayley(held[".oft_blocks"], most)):
            here = slice(at * size, (at + 1) * size)
            turned[here] = turn.T @ weight[here]
        return turned * (held[".rescale"].reshape(-1, 1) if rescaled else 1.0) - weight, None

    return define


def add_boft(case: Case, rank: int) -> Define:
    """Blocks of two rows: stage i turns rows that lie 2^i apart."""
    stages = 1
    while case.out % 2 ** (stages + 1) == 0 and stages < 3:
        stages += 1
    case.alpha = None
    case.add(".oft_blocks", stages, case.out // 2, 2, 2, size=0.3)

    def define(held: dict[str, Array], weight: Array, bias: Array) -> tuple[Array, None]:
        turned = weight.copy()
        for stage, turns in enumerate(cayley(held[".oft_blocks"], None)):
            step = 2**stage
            pairs = [(row, row + step) for row in range(case.out) if row // step % 2 == 0]
            for turn, (first, second) in zip(turns, pairs, strict=True):
                turned[[first, second]] = turn @ turned[[first, second]]
        return turned - weight, None

    return define


def add_set(case: Case, rank: int) -> Define:
    case.alpha = None
    case.add(".set_weight", *case.shape)
    return lambda held, weight, bias: (flat(held[".set_weight"]) - weight, None)


def add_pair_with_bias(case: Case, rank: int) -> Define:
    case.bias, case.stem, case.alpha = True, f"base_model.model.{PATH}", None
    ones = tuple(1 for _ in case.shape[2:])
    alpha, stabilised = float(case.rng.integers(1, 9)), bool(case.rng.random() < 0.5)
    case.config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": stabilised, "lora_bias": True}
    case.add(".lora_A.weight", rank, *case.shape[1:])
    case.add(".lora_B.weight", case.out, rank, *ones)
    case.add(".lora_B.bias", case.out)
    scale = alpha / (math.sqrt(rank) if stabilised else rank)
    return lambda held, weight, bias: (
        scale * flat(held[".lora_B.weight"]) @ flat(held[".lora_A.weight"]), scale * held[".lora_B.bias"]
    )  # fmt: skip


def add_adalora(case: Case, rank: int) -> Define:
    case.alpha, case.stem = None, f"base_model.model.{PATH}"
    start, alpha = rank + int(case.rng.integers(3)), float(case.rng.integers(1, 9))
    case.config = {"peft_type": "ADALORA", "init_r": start, "lora_alpha": alpha}
    case.add(".lora_A", rank, case.columns)
    case.add(".lora_B", case.out, rank)
    case.add(".lora_E", rank, 1)
    scale = alpha / (start + 1e-5)
    return lambda held, weight, bias: (
        scale * held[".lora_B"] @ np.diag(held[".lora_E"].ravel()) @ held[".lora_A"], None
    )  # fmt: skip


def add_embedding(case: Case, rank: int) -> Define:
    case.kind, case.bias, case.stem, case.alpha = "embedding", False, f"base_model.model.{PATH}", None
    case.config = {"peft_type": "LORA", "r": rank, "lora_alpha": 3}
    case.add(".lora_embedding_A", rank, case.out)
    case.add(".lora_embedding_B", case.shape[1], rank)
    return lambda held, weight, bias: (
        3 / rank * (held[".lora_embedding_B"] @ held[".lora_embedding_A"]).T, None
    )  # fmt: skip


def add_norm(case: Case, rank: int) -> Define:
    case.kind, case.bias, case.alpha = "norm", True, None
    case.add(".w_norm", case.out)
    case.add(".b_norm", case.out)
    return lambda held, weight, bias: (held[".w_norm"].reshape(-1, 1), held[".b_norm"])


ANY = [add_pair, add_loha, add_lokr, add_full, add_sparse, add_magnitude, add_ia3, add_glora, add_oft, add_boft,
       add_set, add_pair_with_bias, add_adalora]  # fmt: skip
WITHOUT_ALPHA = [add_full, add_glora]


@st.composite
def draw_case(draw: st.DrawFn) -> Case:
    """A module of any family."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    out, width = draw(st.sampled_from([2, 4, 6, 8, 12, 16])), draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12]))
    kernel = draw(st.sampled_from([(), (), (1, 1), (3, 3), (1, 3)]))
    add = draw(st.sampled_from([*ANY, add_tucker, add_embedding, add_norm, add_ia3_of_peft]))
    if add in (add_embedding, add_norm, add_ia3_of_peft):
        kernel = ()
    if add is add_tucker and not kernel:
        kernel = (3, 3)
    shape = (out,) if add is add_norm else (out, width, *kernel)
    case = Case(shape, rng, draw(st.sampled_from(DTYPES)), "conv" if kernel else "linear", draw(st.booleans()))
    case.alpha = draw(st.sampled_from([None, 1.0, 0.5, 3.0, 16.0]))
    case.define = add(case, draw(st.integers(1, 5)))
    if case.alpha is not None:
        kind = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
        case.tensors[".alpha"] = torch.full(draw(st.sampled_from([(), (1,)])), case.alpha, dtype=kind)
    return case


def convert(case: Case, held: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> converters.Conversion:
    module = Module(case.kind, case.shape, bias=case.bias)  # type: ignore[arg-type]
    base = Architecture("one", {"unet": Model("UNet2DConditionModel", {PATH: module})})
    stored = {f"{case.stem}{name}": Tensor.from_torch(value) for name, value in tensors.items()}
    source = Source(Path("one.safetensors"), 1, stored, configs={"": case.config} if case.config else {})
    return converters.convert_source(
        source, base=base, weights=as_parameters({"unet": held}), allow_large=True, check=True
    )


def draw_base(case: Case) -> dict[str, torch.Tensor]:
    weight = torch.from_numpy(case.rng.standard_normal(case.shape)).float()
    bias = {f"{PATH}.bias": torch.from_numpy(case.rng.standard_normal(case.out)).float()} if case.bias else {}
    return {f"{PATH}.weight": weight, **bias}


@settings(max_examples=120)
@given(draw_case())
def test_every_lowering_does_what_its_definition_says(case: Case) -> None:
    held = draw_base(case)
    weight = flat(held[f"{PATH}.weight"].double().numpy())
    bias = held[f"{PATH}.bias"].double().numpy() if case.bias else np.zeros(case.out)
    change, shift = case.define(case.held(), weight, bias)
    found = convert(case, held, case.tensors)
    layer = found.adapter.components["unet"].layers[PATH]
    reached = found.origins.reached(("unet", PATH), layer)
    nothing = np.zeros_like(weight)
    ours = flat(reached.weight().numpy()) if reached.weight else nothing
    # What is computed is stored in 32 bits: gains near the weight's size, the rest near the change's.
    room = 2e-6 * np.linalg.norm(change) + 1e-6 * np.linalg.norm(weight)
    assert np.linalg.norm(ours - change) <= room
    moved = reached.bias().numpy() if reached.bias else np.zeros(case.out)
    wanted = np.zeros(case.out) if shift is None else shift
    # What a gain does to the bias is taken back: both are as large as the gain.
    gain = layer.tensors.get("gain")
    most = 1.0 if gain is None else 1 + float(gain.torch().double().abs().max())
    assert np.linalg.norm(moved - wanted) <= 2e-6 * np.linalg.norm(wanted) + 1e-6 * most * np.linalg.norm(bias) + 1e-9
    assert not found.report.lost


@settings(max_examples=150)
@given(draw_case(), st.data())
def test_shapes_that_contradict_each_other_are_told_and_never_crash(case: Case, data: st.DataObject) -> None:
    tensors = dict(case.tensors)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        shape = list(tensors[name].shape)
        change = data.draw(st.sampled_from(["gone", "longer", "shorter", "axis", "flat", "dtype"]))
        if change == "gone":
            tensors.pop(name)
            if not tensors:
                return
            continue
        if change in ("longer", "shorter") and shape:
            at = data.draw(st.integers(0, len(shape) - 1))
            shape[at] = shape[at] + 1 if change == "longer" else max(shape[at] - 1, 0)
        elif change == "axis":
            shape.insert(data.draw(st.integers(0, len(shape))), data.draw(st.sampled_from([0, 1, 2])))
        elif change == "flat":
            shape = [math.prod(shape)]
        kind = data.draw(st.sampled_from([torch.int64, torch.bool])) if change == "dtype" else tensors[name].dtype
        tensors[name] = torch.ones(shape).to(kind)
    try:
        convert(case, draw_base(case), tensors)
    except SiHubError:
        return
