"""Base modules as an adapter sees them: which kinds there are, their shapes, and their own function by hand."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.normalization import RMSNorm
from torch import nn

from si_hub.errors import BaseMismatch
from si_hub.tuner.kinds import (
    bias_shape,
    channels,
    check_called,
    evaluate,
    has_float64,
    is_plain,
    is_readable,
    kind_of,
    product,
    weight_shape,
    working_device,
    working_dtype,
)

#: Module, batch, kind, shape of its weight and of a bias.
MODULES: dict[str, tuple[nn.Module, torch.Tensor, str, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), torch.randn(3, 6), "linear", (5, 6), (5,)),
    "linear without bias": (nn.Linear(6, 5, bias=False), torch.randn(3, 4, 6), "linear", (5, 6), (5,)),
    "convolution": (nn.Conv2d(6, 4, 3, padding=1, groups=2), torch.randn(2, 6, 5, 5), "conv", (4, 3, 3, 3), (4,)),
    "reflecting": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), torch.randn(2, 6, 5, 5), "conv",
                   (4, 6, 3, 3), (4,)),
    "layer norm": (nn.LayerNorm(6), torch.randn(3, 6), "norm", (6,), (6,)),
    "layer norm without any": (nn.LayerNorm(6, elementwise_affine=False), torch.randn(3, 6), "norm", (), (6,)),
    "group norm": (nn.GroupNorm(2, 6), torch.randn(3, 6, 4), "norm", (6,), (6,)),
    "torch's RMS norm": (nn.RMSNorm(6), torch.randn(3, 6), "norm", (6,), (6,)),
    "diffusers' RMS norm": (RMSNorm(6, 1e-6), torch.randn(3, 6), "norm", (6,), (6,)),
    "embedding": (nn.Embedding(7, 6), torch.tensor([[0, 6], [3, 3]]), "embedding", (7, 6), (6,)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_its_kind_and_the_shapes_of_its_parameters(name: str) -> None:
    module, _, kind, weight, bias = MODULES[name]
    found = kind_of(module, name)
    assert found.name == kind
    assert weight_shape(module, found) == weight
    assert bias_shape(module, found) == bias
    own: Any = module
    if kind in {"linear", "conv"}:
        assert found.low_rank
        assert channels(module, found) == (6, own.weight.shape[0])
    else:
        assert not found.low_rank


@pytest.mark.parametrize("name", [name for name, entry in MODULES.items() if entry[3]])
def test_a_module_s_function_with_other_parameters_is_that_of_a_module_that_has_them(name: str) -> None:
    module, x, kind, _, _ = MODULES[name]
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(torch.randn_like(parameter))
        own: dict[str, Any] = dict(other.named_parameters())
        before = {key: value.clone() for key, value in module.named_parameters()}
        weight = own["weight"]
        # Where torch checks the shape of what is looked up, the module's own function is asked.
        found = evaluate(module, x, weight, own.get("bias"))
        torch.testing.assert_close(found, other(x))
    assert all(torch.equal(value, before[key]) for key, value in module.named_parameters())
    assert kind


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("name", ["linear", "linear without bias", "convolution", "reflecting"])
def test_the_product_is_the_output_without_the_bias_whether_the_weight_can_be_read_or_not(
    name: str, hidden: bool
) -> None:
    module, x, *_ = copy.deepcopy(MODULES[name])
    with torch.no_grad():
        expected = module(x)
        bias: Any = module._parameters.get("bias")
        if bias is not None:
            expected = expected - bias.reshape((-1, 1, 1) if x.ndim == 4 else (-1,))
        if hidden:
            module.forward = module.forward  # As accelerate's hooks leave it.
        assert is_readable(module) is not hidden
        torch.testing.assert_close(product(module, x), expected)
    assert module._parameters.get("bias") is bias


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (nn.BatchNorm2d(3), "a module of class BatchNorm2d cannot be adapted"),
        (nn.Conv1d(3, 3, 1), "a module of class Conv1d cannot be adapted"),
        (nn.MultiheadAttention(4, 2).out_proj, "is read by its parent and never called"),
    ],
)
def test_what_is_not_linear_in_its_parameters_or_never_called_is_refused(module: nn.Module, match: str) -> None:
    with pytest.raises(BaseMismatch, match=match) as caught:
        kind_of(module, "mid.x")
    assert caught.value.key == "mid.x"


def test_fused_projections_are_refused_only_while_they_are_called(unet: Any) -> None:
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    check_called(attention, "attn1.to_q")
    unet.fuse_qkv_projections()
    with pytest.raises(BaseMismatch, match="to_qkv is called instead"):
        check_called(attention, "attn1.to_q")
    check_called(attention, "attn1.to_out.0")
    unet.unfuse_qkv_projections()
    check_called(attention, "attn1.to_q")


def test_a_module_is_plain_until_something_acts_when_it_is_called() -> None:
    assert is_plain(nn.Linear(2, 2))
    hooked = nn.Linear(2, 2)
    hooked.register_forward_pre_hook(lambda *_: None)
    replaced = nn.Linear(2, 2)
    replaced.forward = replaced.forward  # type: ignore[method-assign]
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    assert not any(map(is_plain, (hooked, replaced, parametrized, RMSNorm(2, 1e-6))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_adapter_works_in_the_base_s_dtype_and_beside_its_weight(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 2).to(dtype), nn.Linear(2, 2, device="meta"))
    assert working_dtype(model[0], model) == dtype
    assert working_device(model[0]) == torch.device("cpu")
    assert working_device(model[1]) == torch.device("cpu")
    assert working_device(nn.ReLU()) == torch.device("cpu")


def test_a_float8_weight_says_nothing_of_what_is_computed_in() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.float16))
    model[0].weight.data = model[0].weight.data.to(torch.float8_e4m3fn)
    model[0].register_parameter("bias", None)
    assert working_dtype(model[0], model) == torch.float16
    assert not is_readable(model[0])


@pytest.mark.parametrize(("known", "expected"), [(True, True), (False, False)])
def test_apple_has_no_float64_and_intel_says_whether(
    known: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _: SimpleNamespace(has_fp64=known))
    assert has_float64(torch.device("xpu")) is expected
    assert [has_float64(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [True, True, False]
