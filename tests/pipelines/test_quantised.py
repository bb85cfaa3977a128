"""Bases that are quantised: their layers run as they are, and an adapter acts beside them.

Each kind is tested where its package is there and runs on a CPU; `make test-quantised` fetches all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import ConversionRefused
from si_hub.storage.tensors import Tensor

WIDTH, RANK, GAIN = 64, 4, 1.1
PATHS = ("first", "last")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


class Tiny(DiffusionPipeline):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.register_modules(transformer=transformer)


def _torchao(config: str, weight_dtype: str | None = None) -> Callable[[nn.Module], None]:
    def quantise(model: nn.Module) -> None:
        quantization = pytest.importorskip("torchao.quantization", reason="make test-quantised")
        options = {} if weight_dtype is None else {"weight_dtype": getattr(torch, weight_dtype)}
        quantization.quantize_(model, getattr(quantization, config)(**options))

    return quantise


def _quanto(kind: str) -> Callable[[nn.Module], None]:
    def quantise(model: nn.Module) -> None:
        quanto = pytest.importorskip("optimum.quanto", reason="make test-quantised")
        quanto.quantize(model, weights=getattr(quanto, kind))
        quanto.freeze(model)

    return quantise


def _bitsandbytes(bits: int) -> Callable[[nn.Module], None]:
    def quantise(model: nn.Module) -> None:
        layers = pytest.importorskip("bitsandbytes", reason="make test-quantised").nn
        for path in PATHS:
            linear = model.get_submodule(path)
            made = (
                layers.Linear8bitLt(WIDTH, WIDTH, has_fp16_weights=False)
                if bits == 8
                else layers.Linear4bit(WIDTH, WIDTH, quant_type="nf4", compute_dtype=torch.float32)
            )
            made.load_state_dict(linear.state_dict())
            setattr(model, path, made.to("cpu"))
        model(torch.ones(1, WIDTH))  # The first call quantises what is left to.

    return quantise


def _gguf(model: nn.Module) -> None:
    gguf = pytest.importorskip("gguf", reason="make test-quantised")
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

    kind = gguf.GGMLQuantizationType.Q8_0
    for path in PATHS:
        linear = model.get_submodule(path)
        made = GGUFLinear(WIDTH, WIDTH, bias=True, compute_dtype=torch.float32)
        data = gguf.quantize(linear.get_parameter("weight").detach().numpy(), kind)
        made.weight = GGUFParameter(torch.from_numpy(data), quant_type=kind)
        made.bias = linear.get_parameter("bias")
        setattr(model, path, made)


KINDS: dict[str, Callable[[nn.Module], None]] = {
    "torchao int8": _torchao("Int8WeightOnlyConfig"),
    "torchao int4": _torchao("IntxWeightOnlyConfig", weight_dtype="int4"),
    "torchao float8": _torchao("Float8WeightOnlyConfig"),
    "quanto int8": _quanto("qint8"),
    "quanto float8": _quanto("qfloat8"),
    "bitsandbytes 8 bits": _bitsandbytes(8),
    "bitsandbytes 4 bits": _bitsandbytes(4),
    "GGUF Q8_0": _gguf,
}
X = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1))


def make_adapter(seed: int) -> Adapter:
    """A low-rank pair and a gain for both layers: the gain is a function of what the base's layer gives."""
    draw = torch.Generator().manual_seed(seed)
    layers = {}
    for path in PATHS:
        tensors = {
            "down.weight": torch.randn(RANK, WIDTH, generator=draw) / math.sqrt(WIDTH),
            "up.weight": 0.3 * torch.randn(WIDTH, RANK, generator=draw),
            "gain": torch.full((WIDTH,), GAIN),
        }
        layers[path] = Layer({leaf: Tensor.from_torch(value) for leaf, value in tensors.items()}, alpha=float(RANK))
    return Adapter(BaseModel("Net"), {"transformer": Component("Net", layers)})


def expected(plain: torch.Tensor, *weighed: tuple[Adapter, float]) -> torch.Tensor:
    """h + Σ w ((gain − 1) h + B A x) in float64, h the quantised layer's own output."""
    found = plain.double()
    for made, weight in weighed:
        tensors = made.components["transformer"].layers["first"].tensors
        up, down = (tensors[leaf].torch().double() for leaf in ("up.weight", "down.weight"))
        found = found + weight * ((GAIN - 1) * plain.double() + X.double() @ down.T @ up.T)
    return found


@pytest.mark.filterwarnings("ignore")  # The packages' own.
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_adapters_act_beside_a_quantised_layer_and_leave_it_as_it_was(kind: str) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    full = model.first(X)
    KINDS[kind](model)
    model.requires_grad_(False)
    modules, held = dict(model.named_modules()), {key: id(value) for key, value in model.named_parameters()}
    base, plain = model(X), model.first(X)
    assert not torch.equal(plain, full), "the layer is not quantised"
    pipe = Tiny(model)
    ink, neon = make_adapter(2), make_adapter(3)
    assert len(pipe.load_styleinject_weights(ink, "ink").matched) == 2
    assert torch.allclose(model.first(X).double(), expected(plain, (ink, 1.0)), atol=1e-5)
    pipe.load_styleinject_weights(neon, "neon")
    pipe.set_styleinject_adapters(["ink", "neon"], [0.5, -0.25])
    assert torch.allclose(model.first(X).double(), expected(plain, (ink, 0.5), (neon, -0.25)), atol=1e-5)
    with pytest.raises(ConversionRefused, match=r"the base weight is quantised.*Fuse before quantising"):
        pipe.fuse_styleinject()
    added = [(key, value) for key, value in model.named_parameters() if "styleinject" in key]
    numbers = sum(value.numel() * value.element_size() for _, value in added)
    file = sum(
        tensor.count * 4
        for made in (ink, neon)
        for layer in made.components["transformer"].layers.values()
        for tensor in layer.tensors.values()
    )
    assert numbers <= 1.05 * file
    pipe.unload_styleinject_weights()
    assert torch.equal(model(X), base)
    assert dict(model.named_modules()) == modules
    assert {key: id(value) for key, value in model.named_parameters()} == held
