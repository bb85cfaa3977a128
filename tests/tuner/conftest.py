"""Small models, random adapters, and the formula of docs/FORMAT.md written out once more in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from si_hub.adapter import Component, Layer, Transform
from si_hub.storage.tensors import Tensor as Stored

OPTIONAL = ("none", "gain", "gain_in", "weight_delta", "bias_delta", "turn", "turn_in", "kron", "core", "all")


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


@pytest.fixture
def unet(_unet: UNet2DConditionModel) -> UNet2DConditionModel:
    return copy.deepcopy(_unet)


@dataclass(frozen=True)
class Case:
    """A base layer and the shape of one batch for it."""

    name: str
    base: Callable[[], nn.Module]
    batch: tuple[int, ...]

    @property
    def linear(self) -> bool:
        return self.name.startswith("linear")


CASES = (
    Case("linear on vectors", lambda: nn.Linear(12, 8), (3, 12)),
    Case("linear on tokens", lambda: nn.Linear(12, 8), (3, 5, 12)),
    Case("linear on a grid without bias", lambda: nn.Linear(12, 8, bias=False), (2, 3, 4, 12)),
    Case("conv 3x3 stride 2", lambda: nn.Conv2d(12, 8, 3, stride=2, padding=1), (3, 12, 7, 6)),
    Case("conv 1x1", lambda: nn.Conv2d(12, 8, 1), (3, 12, 4, 5)),
    Case("conv dilated, same padding", lambda: nn.Conv2d(12, 8, 3, padding="same", dilation=2), (2, 12, 6, 5)),
    Case("conv reflecting", lambda: nn.Conv2d(12, 8, 3, padding=1, padding_mode="reflect"), (2, 12, 6, 5)),
    Case("conv grouped", lambda: nn.Conv2d(12, 8, 3, padding=1, groups=2), (2, 12, 6, 5)),
    Case("conv grouped and dilated", lambda: nn.Conv2d(12, 8, 3, padding=2, dilation=2, groups=2), (2, 12, 6, 5)),
)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def _sizes(base: nn.Module) -> tuple[int, int, tuple[int, ...]]:
    """Input and output channels and the kernel."""
    if isinstance(base, nn.Linear):
        return base.in_features, base.out_features, ()
    assert isinstance(base, nn.Conv2d)
    return base.in_channels, base.out_channels, base.kernel_size


def random_layer(
    base: nn.Module, n: int, optional: str, transform: Transform = "add", alpha: float | None = 3.0
) -> Layer:
    """A layer of rank 4 with n branches and one optional tensor, or all that go together."""
    into, out, kernel = _sizes(base)
    groups = int(getattr(base, "groups", 1))
    o1, i1 = (2, 3) if optional == "kron" else (1, 1)
    wanted = set(OPTIONAL[1:7]) if optional == "all" else {optional}
    tensors = {
        "down.weight": torch.randn(n * 4, into // i1, *kernel),
        "up.weight": torch.randn(out // o1, 4 // groups),
    }
    if optional == "core":
        down, core = torch.randn(5, into, *[1] * len(kernel)), torch.randn(n * 4, 5, *kernel)
        tensors |= {"down.weight": down, "core.weight": core}
    if n > 1:
        tensors |= {"router.weight": torch.randn(n, into), "router.bias": torch.randn(n)}
    extra = {
        "gain": torch.randn(out),
        "gain_in": torch.randn(into),
        "weight_delta": torch.randn(out, into // groups, *kernel),
        "bias_delta": torch.randn(out),
        "turn": torch.randn(2, out // 2, out // 2),
        "turn_in": torch.randn(3, into // 3, into // 3),
        "kron": torch.randn(o1, i1),
    }
    tensors |= {name: tensor for name, tensor in extra.items() if name in wanted}
    stored = {name: Stored.from_torch(tensor) for name, tensor in tensors.items()}
    return Layer(stored, alpha=alpha, transform=transform, groups=groups)


@pytest.fixture(scope="session")
def make_layer() -> Callable[..., Layer]:
    return random_layer


@pytest.fixture
def component() -> Callable[..., Component]:
    """A component from layers by path, given as keyword dictionary."""
    return lambda layers: Component(layers=dict(layers))


class Net(nn.Module):
    """A linear layer, a convolution, norms, an embedding and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.norm = nn.LayerNorm(12)
        self.rms = nn.RMSNorm(12)
        self.fc = nn.Linear(12, 8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.group = nn.GroupNorm(2, 8)
        self.table = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """ids ``[N, 4, 5]`` to ``[N, 8, 4, 5]``."""
        x = self.fc(self.rms(self.norm(self.embed(ids)))).movedim(-1, 1)
        out: Tensor = self.group(self.conv(x)) + self.table
        return out


@pytest.fixture
def net() -> Net:
    return Net().eval().requires_grad_(False)


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, 11, (3, 4, 5))


@pytest.fixture
def whole(make_layer: Callable[..., Layer]) -> Callable[..., Component]:
    """An adapter for the linear layer and the convolution of `Net`, two named branches."""

    def make(n: int = 2, transform: Transform = "add", seed: int = 1) -> Component:
        torch.manual_seed(seed)
        net = Net()
        layers = {path: make_layer(net.get_submodule(path), n, "none", transform) for path in ("fc", "conv")}
        return Component(layers=layers)

    return make


def _base(base: nn.Module, x: Tensor, weight: Tensor, groups: int | None = None) -> Tensor:
    """The base product without bias, with any weight."""
    if isinstance(base, nn.Linear):
        return torch.einsum("...i,oi->...o", x, weight)
    assert isinstance(base, nn.Conv2d)
    pads = base._reversed_padding_repeated_twice
    mode = "constant" if base.padding_mode == "zeros" else base.padding_mode
    padded = F.pad(x, pads, mode=mode)
    return F.conv2d(padded, weight, None, base.stride, 0, base.dilation, base.groups if groups is None else groups)


def _delta_weight(layer: Layer, t: dict[str, Tensor], s: Tensor, base: nn.Module) -> Tensor:
    """(alpha / rank) · B · Σ s_i A_i as a full matrix or kernel, over all input channels."""
    rank = 4
    down = t["down.weight"]
    if "core.weight" in t:
        # A_i x = core_i ∗ (down x), written as one kernel over the input channels.
        core, columns = t["core.weight"], down.reshape(5, -1)
        down = torch.zeros(core.shape[0], columns.shape[1], *core.shape[2:], dtype=torch.float64)
        for row in range(core.shape[0]):
            for column in range(columns.shape[1]):
                for q in range(5):
                    down[row, column] += core[row, q] * columns[q, column]
    mixed = sum((s[i] * down[i * rank : (i + 1) * rank] for i in range(len(s))), torch.zeros_like(down[:rank]))
    up = t["up.weight"]
    out, per_group = up.shape
    full = torch.zeros(out, rank, dtype=torch.float64)
    for o in range(out):
        group = o * layer.groups // out
        full[o, group * per_group : (group + 1) * per_group] = up[o]
    delta = torch.einsum("or,r...->o...", full, mixed) * ((layer.alpha if layer.alpha is not None else rank) / rank)
    return torch.kron(t["kron"].reshape(*t["kron"].shape, *[1] * (delta.ndim - 2)), delta) if "kron" in t else delta


def reference(base: nn.Module, layer: Layer, x: Tensor, w: float, styles: tuple[float, ...] | None = None) -> Tensor:
    """What base + adapter gives, instance by instance, in float64 on merged weights."""
    base, x = base.double(), x.double()
    t = {name: tensor.torch().double() for name, tensor in layer.tensors.items()}
    linear = isinstance(base, nn.Linear)
    weight = base.get_parameter("weight").detach()
    outs = []
    for one in torch.split(x, 1):
        h: Tensor = base(one).detach()
        into = (slice(None),) * (one.ndim - 1) if linear else (slice(None), slice(None))

        def across(vector: Tensor, ndim: int = h.ndim) -> Tensor:
            return vector if linear else vector.view(-1, *[1] * (ndim - 2))

        pooled = one.reshape(-1, one.shape[-1]).mean(0) if linear else one[into].mean((0, 2, 3))
        n = t.get("core.weight", t["down.weight"]).shape[0] // 4
        if styles is not None:
            s = torch.tensor(styles, dtype=torch.float64)
        elif n == 1:
            s = torch.ones(1, dtype=torch.float64)
        else:
            logits = t["router.bias"] + (t["router.weight"] @ pooled if "router.weight" in t else 0)
            s = logits.exp() / logits.exp().sum()
        r = torch.zeros_like(h)
        if "gain" in t:
            r = r + (across(t["gain"]) - 1) * h
        if "turn" in t:
            r = r + _turned(t["turn"], h, linear)
        if "turn_in" in t:
            r = r + _base(base, _turned(t["turn_in"], one, linear), weight)
        if "gain_in" in t:
            r = r + _base(base, (across(t["gain_in"]) - 1) * one, weight)
        if "weight_delta" in t:
            r = r + _base(base, one, t["weight_delta"])
        if "bias_delta" in t:
            r = r + across(t["bias_delta"])
        u = h + w * r
        dh = w * _base(base, one, _delta_weight(layer, t, s, base), groups=1)
        outs.append(u + injected(layer.transform, u, dh, linear))
    return torch.cat(outs)


def _turned(blocks: Tensor, features: Tensor, linear: bool) -> Tensor:
    """The block-diagonal matrix, laid out whole, times the channels."""
    matrix = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return torch.einsum("...c,oc->...o" if linear else "nc...,oc->no...", features, matrix)


def injected(transform: str, u: Tensor, dh: Tensor, linear: bool) -> Tensor:
    """δT by its table, statistics taken channel by channel."""
    axes = tuple(range(1, u.ndim - 1)) if linear else tuple(range(2, u.ndim))
    if transform == "add" or not axes or all(u.shape[axis] == 1 for axis in axes):
        return dh

    def mean(v: Tensor) -> Tensor:
        return v.mean(axes, keepdim=True)

    def sigma(v: Tensor) -> Tensor:
        return (v.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()

    restyle = (sigma(u + dh) / sigma(u) - 1) * (u - mean(u))
    return {
        "variance": dh * (u - mean(u)) / sigma(u),
        "restyle": restyle,
        "adain": restyle + mean(u + dh) - mean(u),
    }[transform]


@pytest.fixture
def formula() -> Callable[..., Tensor]:
    return reference


@pytest.fixture
def delta_t() -> Callable[..., Tensor]:
    return injected


@pytest.fixture
def close() -> Callable[..., None]:
    """Equal to 1e-10 of the largest value, for float64."""

    def check(got: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
        error = (got.double() - expected.double()).abs().max() / expected.abs().max()
        assert error <= tolerance, f"relative error {error:.2e}"

    return check
