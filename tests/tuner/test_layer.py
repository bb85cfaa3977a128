from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.adapter import TRANSFORMS, Component, Layer
from si_hub.errors import LayerShapeError
from si_hub.format.layers import check_layer
from si_hub.storage.tensors import Tensor as Stored


def _hosted(base: nn.Module, layer: Layer, weight: float = 1.0) -> nn.Module:
    model = nn.Sequential(base)
    report = tuner.inject(model, Component(layers={"0": layer}), name="style")
    assert report.matched == ["0"], report
    tuner.set_active(model, {"style": weight})
    return model


@pytest.mark.parametrize("optional", ["none", "gain", "gain_in", "weight_delta", "bias_delta", "kron", "core", "all"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n", [1, 3])
def test_the_output_is_the_formula(
    case: Any, optional: str, transform: str, n: int, make_layer: Any, formula: Any, close: Any
) -> None:
    base = case.base()
    if (optional == "kron" and n > 1) or (optional in {"kron", "core"} and getattr(base, "groups", 1) > 1):
        # The format's own rules: kron goes with one branch and one group, a core with one group.
        with pytest.raises(LayerShapeError):
            check_layer(make_layer(base, n, optional, transform), "unet.layer")
        return
    layer = make_layer(base, n, optional, transform)
    x = torch.randn(case.batch)
    expected = formula(copy.deepcopy(base), layer, x, 0.7)
    close(_hosted(base.double(), layer, 0.7)(x.double()).detach(), expected)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_kronecker_factor_of_a_dense_difference_is_the_expanded_difference(
    case: Any, transform: str, close: Any
) -> None:
    base = case.base().double()
    if getattr(base, "groups", 1) > 1:
        pytest.skip("kron goes with one group")
    kernel = tuple(base.weight.shape[2:])
    kron, right = torch.randn(2, 3), torch.randn(4, 4, *kernel)
    expanded = torch.kron(kron.double().reshape(2, 3, *[1] * len(kernel)), right.double())
    layer = Layer({"kron": Stored.from_torch(kron), "weight_delta": Stored.from_torch(right)}, transform=transform)  # type: ignore[arg-type]
    merged = copy.deepcopy(base)
    merged.weight.data += 0.5 * expanded
    x = torch.randn(case.batch).double()
    close(_hosted(base, layer, 0.5)(x).detach(), merged(x).detach())


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("n", [1, 3])
def test_zero_up_or_zero_weight_is_the_base_bit_for_bit(case: Any, transform: str, n: int, make_layer: Any) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base = case.base().to(dtype)
        layer = make_layer(base, n, "none", transform)
        x = torch.randn(case.batch).to(dtype)
        expected = base(x)
        asleep = _hosted(base, layer, 0.0)
        assert torch.equal(asleep(x), expected)
        tuner.remove(asleep)
        layer.tensors["up.weight"] = Stored.from_torch(torch.zeros(layer.tensors["up.weight"].shape))
        assert torch.equal(_hosted(base, layer)(x), expected)


@pytest.mark.parametrize("optional", ["none", "kron", "core", "all"])
def test_an_empty_batch_stays_empty(case: Any, optional: str, make_layer: Any) -> None:
    base = case.base()
    if optional in {"kron", "core"} and getattr(base, "groups", 1) > 1:
        return
    x = torch.randn(case.batch)[:0]
    shape = base(x).shape
    assert _hosted(base, make_layer(base, 1 if optional == "kron" else 3, optional, "adain"))(x).shape == shape


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("optional", ["none", "core", "all"])
def test_a_batch_is_its_instances_one_by_one(
    case: Any, transform: str, optional: str, make_layer: Any, close: Any
) -> None:
    base = case.base().double()
    if optional == "core" and getattr(base, "groups", 1) > 1:
        pytest.skip("a core goes with one group")
    model = _hosted(base, make_layer(base, 3, optional, transform))
    x = torch.randn(case.batch).double()
    close(model(x).detach(), torch.cat([model(one) for one in torch.split(x, 1)]).detach(), 1e-12)


def test_weight_zero_hides_an_infinite_adapter() -> None:
    base = nn.Linear(4, 4)
    endless = Layer({"weight_delta": Stored.from_torch(torch.full((4, 4), torch.inf))})
    x = torch.randn(2, 3, 4)
    expected = base(x)
    assert torch.equal(_hosted(base, endless, 0.0)(x), expected)


@pytest.mark.parametrize("values", [(0.7, 0.3, 0.0), (0.0, -1.0, 2.0)])
def test_styles_are_used_as_given(case: Any, values: Any, make_layer: Any, formula: Any, close: Any) -> None:
    base = case.base()
    layer = make_layer(base, 3, "none", "add")
    x = torch.randn(case.batch)
    expected = formula(copy.deepcopy(base), layer, x, 1.0, values)
    model = nn.Sequential(base.double())
    tuner.inject(model, Component(layers={"0": layer}), name="style", branches=["a", "b", "c"])
    tuner.set_styles(model, dict(zip("abc", values, strict=True)))
    close(model(x.double()).detach(), expected)


def test_a_fixed_router_gives_every_instance_the_same_styles(
    case: Any, make_layer: Any, formula: Any, close: Any
) -> None:
    base = case.base()
    layer = make_layer(base, 3, "none", "variance")
    del layer.tensors["router.weight"]
    x = torch.randn(case.batch)
    logits = layer.tensors["router.bias"].torch().double()
    expected = formula(copy.deepcopy(base), layer, x, 1.0, tuple(torch.softmax(logits, 0).tolist()))
    close(_hosted(base.double(), layer)(x.double()).detach(), expected)


def test_equal_branches_are_peft_lora_whatever_the_router_says(case: Any, make_layer: Any, close: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    base = case.base()
    if getattr(base, "dilation", (1, 1)) != (1, 1) or getattr(base, "padding_mode", "zeros") != "zeros":
        pytest.skip("PEFT's convolutions forget dilation and padding mode")
    layer = make_layer(base, 3, "none", "add")
    down = layer.tensors["down.weight"].torch()[:4]
    layer.tensors["down.weight"] = Stored.from_torch(torch.cat([down] * 3))
    x = torch.randn(case.batch).double()
    peer = nn.Sequential(copy.deepcopy(base).double())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LoRA adapter added to ConvNd layer with groups > 1")
        inject_adapter_in_model(LoraConfig(r=4, lora_alpha=3, target_modules=["0"]), peer)
    lora: Any = peer[0]
    lora.lora_A.default.weight.data = down.double()
    up = layer.tensors["up.weight"].torch().double()
    lora.lora_B.default.weight.data = up.reshape(lora.lora_B.default.weight.shape)
    close(_hosted(base.double(), layer)(x).detach(), peer(x).detach(), 1e-12)


@pytest.mark.parametrize("n", [1, 3])
def test_mixing_first_and_all_products_agree(
    case: Any, n: int, make_layer: Any, close: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = case.base().double()
    model = _hosted(base, make_layer(base, n, "none", "adain"))
    x = torch.randn(case.batch).double()
    outputs = []
    for choice in (True, False):
        monkeypatch.setattr("si_hub.tuner.operator.mixing_pays", lambda *_, _choice=choice, **__: _choice)
        outputs.append(model(x).detach())
    close(outputs[0], outputs[1], 1e-12)


def test_an_input_without_a_batch_axis_is_a_batch_of_one(make_layer: Any, close: Any) -> None:
    for base, shape in ((nn.Linear(12, 8), (12,)), (nn.Conv2d(12, 8, 3), (12, 5, 5))):
        model = _hosted(base.double(), make_layer(base, 3, "all", "variance"))
        x = torch.randn(shape).double()
        close(model(x).detach(), model(x[None])[0].detach(), 1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_dtype_and_statistics_stay_wide(
    dtype: torch.dtype, transform: str, make_layer: Any, formula: Any
) -> None:
    base = nn.Linear(12, 8)
    layer = make_layer(base, 3, "none", transform)
    # Squares of these overflow float16, and a float16 mean of them loses everything.
    x = torch.randn(2, 50, 12) * 30 + 100
    base = base.to(dtype)
    expected = formula(copy.deepcopy(base), layer, x.to(dtype), 0.1)
    got = _hosted(base, layer, 0.1)(x.to(dtype))
    assert got.dtype == dtype
    assert bool(torch.isfinite(got).all())
    resolution = torch.finfo(dtype).eps
    assert (got.double() - expected).abs().max() / expected.abs().max() < 8 * resolution


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_autocast_changes_neither_dtype_nor_meaning(case: Any, transform: str, make_layer: Any) -> None:
    base = case.base()
    layer = make_layer(base, 3, "none", transform)
    x = torch.randn(case.batch)
    model = _hosted(base, layer, 0.1)
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = model(x)
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).abs().max() / expected.abs().max() < 0.05


def test_float32_leaves_on_a_half_base_cast_the_input(make_layer: Any) -> None:
    base = nn.Linear(12, 8).to(torch.bfloat16)
    model = _hosted(base, make_layer(base, 2, "none", "variance"))
    for leaf in ("down", "up", "router"):
        base.get_submodule(f"styleinject_layer.style.{leaf}").float()
    got = model(torch.randn(2, 5, 12).to(torch.bfloat16))
    assert got.dtype == torch.bfloat16


def test_a_hooked_leaf_is_called_and_not_read(make_layer: Any, close: Any) -> None:
    base = nn.Linear(12, 8).double()
    model = _hosted(base, make_layer(base, 3, "all", "add"))
    x = torch.randn(2, 9, 12).double()
    expected = model(x)
    leaves = base.get_submodule("styleinject_layer.style")
    real = {name: parameter.data for name, parameter in leaves.named_parameters()}

    def load(module: nn.Module, _: Any) -> None:
        for name, leaf in leaves.named_children():
            if leaf is module:
                for key, parameter in leaf.named_parameters():
                    parameter.data = real[f"{name}.{key}"]

    def unload(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters():
            parameter.data = torch.zeros_like(parameter)

    def after(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        kept = output.clone()
        unload(module)
        return kept

    for leaf in leaves.children():
        leaf.register_forward_pre_hook(load)
        unload(leaf)
        leaf.register_forward_hook(after)
    close(model(x).detach(), expected.detach(), 1e-12)


def test_accelerate_offloading_of_every_leaf_gives_the_same(make_layer: Any, close: Any) -> None:
    from accelerate import cpu_offload

    base = nn.Linear(12, 8)
    model = _hosted(base, make_layer(base, 3, "all", "variance"))
    x = torch.randn(2, 9, 12)
    expected = model(x).detach()
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert base.weight.device.type == "meta"
    with torch.no_grad():
        close(model(x), expected, 1e-5)


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
def test_group_offloading_gives_the_same(level: str, make_layer: Any, close: Any) -> None:
    from diffusers.hooks import apply_group_offloading

    model = nn.Sequential(nn.Linear(12, 8))
    tuner.inject(model, Component(layers={"0": make_layer(model[0], 3, "all", "variance")}), name="style")
    x = torch.randn(2, 9, 12)
    with torch.no_grad():
        expected = model(x)
        cpu = torch.device("cpu")
        blocks = {"num_blocks_per_group": 1} if level == "block_level" else {}
        apply_group_offloading(model, onload_device=cpu, offload_device=cpu, offload_type=level, **blocks)
        close(model(x), expected, 1e-5)


def test_layerwise_casting_leaves_the_adapter_in_its_precision(make_layer: Any, close: Any) -> None:
    from diffusers.hooks import apply_layerwise_casting

    base = nn.Linear(12, 8).bfloat16()
    model = nn.ModuleList([base])
    apply_layerwise_casting(model, torch.float8_e4m3fn, torch.bfloat16, skip_modules_pattern=())
    x = torch.randn(2, 9, 12).bfloat16()
    plain = base(x).detach()
    layer = make_layer(base, 3, "all", "add")
    tuner.inject(model, Component(layers={"0": layer}), name="style")
    with torch.no_grad():
        first, second = base(x), base(x)
    leaf = base.get_parameter("styleinject_layer.style.down.weight")
    assert leaf.dtype == torch.bfloat16
    assert torch.equal(leaf, layer.tensors["down.weight"].torch().bfloat16())
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)


def test_a_float8_leaf_computes_in_the_dtype_of_the_features(make_layer: Any) -> None:
    base = nn.Linear(12, 8).bfloat16()
    model = _hosted(base, make_layer(base, 1, "none"))
    leaves = base.get_submodule("styleinject_layer.style")
    for leaf in leaves.children():
        for parameter in leaf.parameters():
            parameter.data = parameter.data.to(torch.float8_e4m3fn)
    x = torch.randn(2, 12).bfloat16()
    with torch.no_grad():
        added = model(x) - nn.functional.linear(x, base.weight, base.bias)
    weights = [leaf.get_parameter("weight").bfloat16() for leaf in leaves.children()]
    expected = (x @ weights[0].T * 0.75) @ weights[1].T
    assert (added - expected).abs().max() <= 0.05 * expected.abs().max()


def test_gradients_reach_every_trainable_tensor_and_no_other(case: Any, make_layer: Any) -> None:
    base = case.base()
    model = _hosted(base, make_layer(base, 3, "all", "adain"))
    model.requires_grad_(False)
    leaves = base.get_submodule("styleinject_layer.style").requires_grad_(True)
    model(torch.randn(case.batch)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if any(parameter is trained for trained in leaves.parameters()):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_gradient_checkpointing_gives_the_same_gradients(make_layer: Any) -> None:
    import torch.utils.checkpoint

    checkpoint: Any = torch.utils.checkpoint.checkpoint

    base = nn.Linear(12, 8)
    model = _hosted(base, make_layer(base, 3, "none", "variance"))
    leaves = base.get_submodule("styleinject_layer.style").requires_grad_(True)
    x = torch.randn(2, 5, 12)
    grads = []
    runs: list[Any] = [model, lambda v: checkpoint(model, v, use_reentrant=False)]
    for run in runs:
        leaves.zero_grad()
        run(x).square().mean().backward()
        grads.append([parameter.grad.clone() for parameter in leaves.parameters() if parameter.grad is not None])
    assert len(grads[0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_compiled_models_give_the_same(net: nn.Module, ids: Tensor, whole: Callable[..., Component]) -> None:
    tuner.inject(net, whole(transform="variance"), name="style")
    expected = net(ids)
    compiled: Any = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ids), expected)
    tuner.set_active(compiled, {"style": 0.5})
    assert torch.equal(compiled(ids), net(ids))
    assert not torch.equal(compiled(ids), expected)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_model_compiled_before_sees_adapters_come_and_go(
    net: nn.Module, ids: Tensor, whole: Callable[..., Component], blocks: bool
) -> None:
    compiled: Any = net
    if blocks:
        net.get_submodule("fc").compile(backend="eager")
    else:
        compiled = torch.compile(net, backend="eager")
    base = compiled(ids)
    tuner.inject(net, whole(), name="style")
    adapted = compiled(ids)
    assert not torch.equal(adapted, base)
    tuner.remove(net)
    assert torch.equal(compiled(ids), base)
    tuner.inject(net, whole(), name="style")
    assert torch.equal(compiled(ids), adapted)


def test_a_deep_copy_is_independent(net: nn.Module, ids: Tensor, whole: Callable[..., Component]) -> None:
    base = net(ids)
    tuner.inject(net, whole(), name="style")
    adapted = net(ids)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(ids), adapted)
    tuner.remove(twin)
    assert torch.equal(twin(ids), base)
    assert torch.equal(net(ids), adapted)


def test_a_pickled_model_comes_back_with_its_adapter(
    net: nn.Module, ids: Tensor, whole: Callable[..., Component]
) -> None:
    model = nn.Sequential(nn.Linear(12, 8))
    tuner.inject(model, Component(layers={"0": whole().layers["fc"]}), name="style")
    x = torch.randn(2, 3, 12)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))
    assert torch.equal(model.state_dict()["0.weight"], again.state_dict()["0.weight"])
    tuner.remove(again)
    assert again.state_dict().keys() == {"0.weight", "0.bias"}


class _Int8Linear(nn.Module):
    """Linear by its sizes, as quantised layers are: packed weight, a forward of its own."""

    compute_dtype = torch.float32

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        scale = dense.weight.detach().abs().max() / 127
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter((dense.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.bias = dense.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.get_buffer("scale").to(x.dtype), self.bias)


def test_a_quantised_base_is_called_and_never_read(make_layer: Any, formula: Any) -> None:
    dense = nn.Linear(12, 8)
    packed = _Int8Linear(dense)
    dense.weight.data = packed.weight * packed.get_buffer("scale")
    layer = make_layer(dense, 3, "all", "restyle")
    x = torch.randn(2, 5, 12)
    model = _hosted(packed, layer, 0.7)
    assert {p.dtype for name, p in model.named_parameters() if "styleinject" in name} == {torch.float32}
    torch.testing.assert_close(
        model(x).detach(), formula(copy.deepcopy(dense), layer, x, 0.7).float(), rtol=1e-4, atol=1e-4
    )
    tuner.set_active(model, {"style": 0.0})
    assert torch.equal(model(x), packed.forward(x))
    assert packed.bias is dense.bias


def test_fusing_into_a_quantised_base_is_refused(make_layer: Any) -> None:
    from si_hub.errors import ConversionRefused

    model = _hosted(_Int8Linear(nn.Linear(12, 8)), make_layer(nn.Linear(12, 8), 1, "none"))
    with pytest.raises(ConversionRefused, match="the base weight is quantised"):
        tuner.fuse_in_place(model)
