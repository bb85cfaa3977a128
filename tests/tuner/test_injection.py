from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.adapter import Component, Layer
from si_hub.errors import BaseMismatch, UsageError
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import Tensor as Stored


def _layer(**tensors: Tensor) -> Layer:
    return Layer({name.replace("__", "."): Stored.from_torch(tensor) for name, tensor in tensors.items()})


def test_the_report_names_matched_missing_and_mismatched_layers(
    net: nn.Module, whole: Callable[..., Component]
) -> None:
    component = whole()
    component.layers["nowhere.at.all"] = component.layers["fc"]
    component.layers["conv"].tensors["down.weight"] = Stored.from_torch(torch.zeros(8, 8, 5, 5))
    report = tuner.inject(net, component, name="style")
    assert report.matched == ["fc"]
    assert report.missing == ["nowhere.at.all"]
    assert [(wrong.path, wrong.leaf) for wrong in report.mismatched] == [("conv", "down.weight")]
    assert report.mismatched[0].expected == "[8, 8, 3, 3]"
    assert report.mismatched[0].found == "[8, 8, 5, 5]"
    assert "conv.down.weight" in str(report.mismatched[0])


def test_nothing_matched_leaves_the_model_as_it_was(net: nn.Module) -> None:
    names = [name for name, _ in net.named_modules()]
    report = tuner.inject(net, Component(layers={"nowhere": _layer(bias_delta=torch.ones(3))}), name="style")
    assert report.matched == []
    assert [name for name, _ in net.named_modules()] == names
    assert tuner.adapters(net) == {}


def _traces(module: nn.Module) -> dict[str, Any]:
    """Every attribute of a module by name; of tables (hooks, parameters, modules) how much is in them."""
    return {key: len(value) if isinstance(value, dict) else None for key, value in vars(module).items()}


def test_removing_gives_back_the_same_objects_and_bits(net: nn.Module, ids: Tensor, whole: Any) -> None:
    before, modules, state = net(ids), dict(net.named_modules()), net.state_dict()
    assert not any(module.training for module in modules.values())
    hooks = {name: _traces(module) for name, module in modules.items()}
    tuner.inject(net, whole(), name="one")
    second = whole(seed=2)
    second.layers["table"] = _layer(param_delta=torch.ones(8, 1, 1))
    tuner.inject(net, second, name="two")
    assert not any(module.training for module in net.modules())
    assert not torch.equal(net(ids), before)
    tuner.remove(net, "one")
    assert list(tuner.adapters(net)) == ["two"]
    tuner.remove(net, ["two"])
    assert torch.equal(net(ids), before)
    after = dict(net.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is modules[name] for name in modules)
    assert {name: _traces(module) for name, module in after.items()} == hooks
    assert net.state_dict().keys() == state.keys()


def test_base_keys_of_the_state_dict_do_not_change(net: nn.Module, whole: Any) -> None:
    keys = set(net.state_dict())
    tuner.inject(net, whole(), name="style")
    assert keys < set(net.state_dict())
    assert all("styleinject_layer.style." in key for key in set(net.state_dict()) - keys)


def test_a_failed_injection_leaves_the_model_as_it_was(net: nn.Module, ids: Tensor, whole: Any) -> None:
    before, names = net(ids), [name for name, _ in net.named_modules()]
    component = whole()
    del component.layers["conv"].tensors["router.bias"]
    with pytest.raises(BaseMismatch, match=r"conv.router.bias: 2 branches need a router"):
        tuner.inject(net, component, name="style")
    assert [name for name, _ in net.named_modules()] == names
    assert torch.equal(net(ids), before)
    tuner.inject(net, whole(), name="style")


@pytest.mark.parametrize("name", ["", "v1.5", "keys", "training"])
def test_impossible_names_are_refused(net: nn.Module, whole: Any, name: str) -> None:
    with pytest.raises(UsageError, match="impossible adapter name"):
        tuner.inject(net, whole(), name=name)


def test_a_taken_name_is_refused(net: nn.Module, whole: Any) -> None:
    tuner.inject(net, whole(), name="style")
    with pytest.raises(UsageError, match="has an adapter of that name"):
        tuner.inject(net, whole(), name="style")


def test_the_number_of_branch_names_is_checked(net: nn.Module, whole: Any) -> None:
    with pytest.raises(BaseMismatch, match=r"fc: the number of branches .* \(expected 3, found 2\)"):
        tuner.inject(net, whole(), name="style", branches=["a", "b", "c"])


def test_extracting_gives_back_what_was_injected(net: nn.Module, whole: Any) -> None:
    component = whole(transform="adain")
    component.layers["table"] = _layer(param_delta=torch.randn(8, 1, 1))
    component.layers["norm"] = _layer(weight_delta=torch.randn(12), bias_delta=torch.randn(12))
    tuner.inject(net, component, name="style")
    back = tuner.extract(net, "style")
    assert back.class_name == "Net"
    assert back.layers.keys() == component.layers.keys()
    for path, layer in component.layers.items():
        found = back.layers[path]
        assert {name: (t.dtype, t.shape, t.tobytes()) for name, t in found.tensors.items()} == {
            name: (t.dtype, t.shape, t.tobytes()) for name, t in layer.tensors.items()
        }
        assert (found.alpha, found.transform, found.pool, found.groups) == (
            layer.alpha,
            layer.transform,
            layer.pool,
            layer.groups,
        )


def test_clip_paths_are_found_with_and_without_text_model(ids: Tensor) -> None:
    inner, outer = nn.Module(), nn.Module()
    inner.add_module("fc", nn.Linear(3, 3))
    outer.add_module("text_model", inner)
    component = Component(layers={"text_model.fc": _layer(bias_delta=torch.ones(3))})
    for model in (inner, outer):
        assert tuner.inject(model, component, name="style").matched == ["text_model.fc"]
        assert list(tuner.extract(model, "style").layers) == ["text_model.fc"]


@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_trained_clip_adapters_are_extracted_under_the_paths_of_files(name: str) -> None:
    import transformers
    from peft import inject_adapter_in_model

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = transformers.CLIPTextConfig(**sizes, projection_dim=8, vocab_size=9, max_position_embeddings=7)
    model = getattr(transformers, name)(config)
    inject_adapter_in_model(tuner.StyleInjectConfig(r=2, target_modules=["fc1"]), model)
    component = tuner.extract(model, "default")
    assert list(component.layers) == ["text_model.encoder.layers.0.mlp.fc1"]
    tuner.remove(model)
    assert tuner.inject(model, component, name="again").matched == ["text_model.encoder.layers.0.mlp.fc1"]


def test_a_linear_adapter_fits_a_1x1_convolution_and_the_reverse() -> None:
    x = torch.randn(2, 5, 6, 6)
    fc, conv = nn.Linear(5, 4), nn.Conv2d(5, 4, 1)
    conv.weight.data, conv.bias.data = fc.weight.data[:, :, None, None], fc.bias.data  # type: ignore[union-attr]
    flat = {"down__weight": torch.randn(2, 5), "up__weight": torch.randn(4, 2), "weight_delta": torch.randn(4, 5)}
    square = {name: t if name == "up__weight" else t[:, :, None, None] for name, t in flat.items()}
    outputs = []
    for tensors in (flat, square):
        on_linear, on_conv = nn.Sequential(fc), nn.Sequential(conv)
        for model in (on_linear, on_conv):
            assert tuner.inject(model, Component(layers={"0": _layer(**tensors)}), name="style").matched
        outputs += [on_linear(x.movedim(1, -1)).movedim(-1, 1), on_conv(x)]
        tuner.remove(on_linear)
        tuner.remove(on_conv)
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0])


def _norms() -> list[tuple[str, nn.Module, Tensor]]:
    from diffusers.models.normalization import RMSNorm as DiffusersNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    x = torch.randn(2, 8, 8)
    return [
        ("LayerNorm", nn.LayerNorm(8), x),
        ("GroupNorm", nn.GroupNorm(2, 8), x[..., None]),
        ("RMSNorm", nn.RMSNorm(8), x),
        ("T5LayerNorm", T5LayerNorm(8), x),
        ("diffusers RMSNorm", DiffusersNorm(8, eps=1e-6), x),
        ("Embedding", nn.Embedding(8, 8), torch.randint(0, 8, (2, 5))),
        ("Linear", nn.Linear(8, 8), x),
        ("Conv2d", nn.Conv2d(8, 8, 3), torch.randn(2, 8, 5, 5)),
    ]


@pytest.mark.parametrize("index", range(8))
def test_deltas_of_any_module_are_a_module_with_changed_parameters(index: int) -> None:
    _, module, x = _norms()[index]
    module = module.double()
    x = x.double() if x.dtype.is_floating_point else x
    weight = module.get_parameter("weight")
    delta, bias = torch.randn(weight.shape), torch.randn(8)
    component = Component(layers={"0": _layer(weight_delta=delta, bias_delta=bias)})
    model = nn.Sequential(module)
    assert tuner.inject(model, component, name="style").matched == ["0"]
    tuner.set_active(model, {"style": 0.5})
    got = model(x).detach()
    tuner.remove(model)
    weight.data += 0.5 * delta.double()
    expected = module(x).detach() + 0.5 * bias.double().reshape(
        -1, *[1] * (2 if index == 7 else 1 if index == 1 else 0)
    )
    expected = expected if index != 1 else module(x).detach() + 0.5 * bias.double().reshape(-1, 1, 1)
    torch.testing.assert_close(got, expected)


def test_a_norm_of_unknown_class_is_refused_by_name() -> None:
    class OnePlusNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

    with pytest.raises(BaseMismatch, match="0: a module of class OnePlusNorm cannot be adapted"):
        tuner.inject(
            nn.Sequential(OnePlusNorm()), Component(layers={"0": _layer(weight_delta=torch.ones(4))}), name="style"
        )


def test_a_linear_layer_that_is_never_called_is_refused() -> None:
    attention = nn.MultiheadAttention(4, 2)
    with pytest.raises(BaseMismatch, match="is read by its parent and never called"):
        tuner.inject(attention, Component(layers={"out_proj": _layer(bias_delta=torch.ones(4))}), name="style")


@pytest.mark.parametrize("cross", [False, True])
def test_a_projection_that_is_fused_with_others_is_refused(cross: bool) -> None:
    from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0

    attention = Attention(8, cross_attention_dim=6 if cross else None, heads=2, dim_head=4).eval()
    x, states = torch.randn(2, 5, 8), torch.randn(2, 3, 6) if cross else None
    attention.fuse_projections()
    attention.set_processor(FusedAttnProcessor2_0())
    called: set[str] = set()
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        attention.get_submodule(name).register_forward_hook(lambda *_, _name=name: called.add(_name))
    attention(x, encoder_hidden_states=states)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        component = Component(layers={name: _layer(bias_delta=torch.ones(8))})
        if name in called:
            assert tuner.inject(attention, component, name="style").matched == [name]
            tuner.remove(attention)
        else:
            with pytest.raises(BaseMismatch, match=rf"{name}: the projections are fused.*unfuse_qkv_projections"):
                tuner.inject(attention, component, name="style")
    assert called == ({"to_q", "to_out.0"} if cross else {"to_out.0"})
    attention.fuse_projections(fuse=False)
    component = Component(layers={"to_v": _layer(bias_delta=torch.ones(8))})
    assert tuner.inject(attention, component, name="style").matched == ["to_v"]


def test_tensors_that_fit_stay_memory_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Stored.torch
    file = tmp_path / "file.safetensors"
    save_file({"down.weight": torch.randn(2, 6), "up.weight": torch.randn(4, 2)}, file)
    tensors = read_safetensors(file).tensors
    for share, dtype in ((True, torch.float32), (False, torch.float32), (True, torch.float16)):
        model = nn.Sequential(nn.Linear(6, 4).to(dtype))
        # Tensor.torch() maps the file privately: what it returned is what has to be found in the model.
        mapped: list[Tensor] = []
        monkeypatch.setattr(Stored, "torch", lambda self, _seen=mapped: _seen.append(real(self)) or _seen[-1])
        tuner.inject(model, Component(layers={"0": Layer(dict(tensors))}), name="style", low_cpu_mem_usage=share)
        sources = {tensor.data_ptr() for tensor in mapped}
        for leaf in ("down", "up"):
            kept = model.get_parameter(f"0.styleinject_layer.style.{leaf}.weight")
            assert kept.dtype == dtype
            assert (kept.data_ptr() in sources) == (share and dtype == torch.float32)


def test_an_adapter_follows_the_base_in_dtype(net: nn.Module, whole: Any) -> None:
    net.to(torch.bfloat16)
    component = whole()
    component.layers["fc"].tensors["gain"] = Stored.from_torch(torch.ones(8))
    tuner.inject(net, component, name="style")
    dtypes = {name.rsplit("style.", 1)[1]: p.dtype for name, p in net.named_parameters() if "styleinject" in name}
    # The router and the gain are small, and rounding them to half precision would show.
    small = {"router.weight", "router.bias", "gain.weight"}
    assert dtypes == {name: torch.float32 if name in small else torch.bfloat16 for name in dtypes}
    assert dtypes.keys() == small | {"down.weight", "up.weight"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casting_a_model_before_or_after_gives_the_same_bits(
    net: nn.Module, ids: Tensor, whole: Any, dtype: torch.dtype
) -> None:
    component = whole(transform="restyle")
    component.layers["fc"].tensors |= {
        "gain": Stored.from_torch(1 + 0.001 * torch.randn(8)),
        "gain_in": Stored.from_torch(1 + 0.001 * torch.randn(12)),
    }
    after = copy.deepcopy(net)
    net.to(dtype)
    for model in (net, after):
        tuner.inject(model, component, name="style")
        tuner.set_active(model, {"style": 0.5})
    after.to(dtype)
    assert torch.equal(net(ids), after(ids))
    ours = {name: p.dtype for name, p in net.named_parameters() if "styleinject" in name}
    assert ours == {name: p.dtype for name, p in after.named_parameters() if "styleinject" in name}


def test_every_layer_gets_the_dtype_of_its_own_base(net: nn.Module, whole: Any) -> None:
    net.get_submodule("conv").to(torch.bfloat16)
    tuner.inject(net, whole(n=1), name="style")
    for path, dtype in (("fc", torch.float32), ("conv", torch.bfloat16)):
        leaves = net.get_submodule(f"{path}.styleinject_layer")
        assert {parameter.dtype for parameter in leaves.parameters()} == {dtype}


def test_a_gain_near_one_is_not_rounded_away_in_half_precision() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False).to(torch.bfloat16))
    model.get_parameter("0.weight").data = torch.eye(4, dtype=torch.bfloat16)
    tuner.inject(model, Component(layers={"0": _layer(gain=torch.full((4,), 1.001))}), name="style")
    tuner.set_active(model, {"style": 1000.0})
    got = model(torch.ones(1, 4, dtype=torch.bfloat16))
    torch.testing.assert_close(got, torch.full((1, 4), 2.0, dtype=torch.bfloat16))


def test_a_module_under_two_paths_is_found_by_both_and_adapted_once() -> None:
    model = nn.Module()
    model.add_module("shared", nn.Linear(3, 3))
    model.add_module("again", model.get_submodule("shared"))
    for name, path in (("one", "shared"), ("two", "again")):
        assert tuner.inject(model, Component(layers={path: _layer(bias_delta=torch.ones(3))}), name=name).matched
    x = torch.zeros(1, 3)
    got = model.get_submodule("again")(x)
    tuner.remove(model)
    torch.testing.assert_close(got, model.get_submodule("shared")(x) + 2)
    twice = Component(layers={path: _layer(bias_delta=torch.ones(3)) for path in ("shared", "again")})
    with pytest.raises(BaseMismatch, match="again: is the same module as shared"):
        tuner.inject(model, twice, name="style")


def test_a_model_that_is_a_sequence_still_runs(whole: Any) -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU())
    x = torch.randn(2, 3, 12)
    expected = model(x)
    tuner.inject(model, Component(layers={"0": whole().layers["fc"]}), name="style")
    tuner.set_active(model, {})
    assert torch.equal(model(x), expected)


def test_a_lora_added_beside_ours_leaves_no_base_parameter_trainable(unet: nn.Module) -> None:
    trainable = {name for name, value in unet.named_parameters() if value.requires_grad}
    gain = Layer({"gain": Stored.from_torch(torch.ones(8))})
    tuner.inject(unet, Component(layers={"conv_in": gain}), name="style")
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "lora")  # type: ignore[operator]
    left = {name for name, value in unet.named_parameters() if value.requires_grad}
    assert left
    assert all("lora_" in name for name in left)
    unet.delete_adapters("lora")  # type: ignore[operator]
    tuner.remove(unet)
    assert not any(value.requires_grad for value in unet.parameters()), "as a LoRA alone leaves it"
    assert trainable == {name.replace(".base_layer", "") for name, _ in unet.named_parameters() if "lora_" not in name}


def test_the_base_is_as_trainable_afterwards_as_it_was(unet: nn.Module) -> None:
    unet.get_parameter("conv_out.bias").requires_grad_(False)
    before = {name: value.requires_grad for name, value in unet.named_parameters()}
    gain = Layer({"gain": Stored.from_torch(torch.ones(8))})
    tuner.inject(unet, Component(layers={"conv_in": gain}), name="style")
    assert not any(value.requires_grad for value in unet.parameters())
    tuner.remove(unet)
    assert {name: value.requires_grad for name, value in unet.named_parameters()} == before
