from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from torch import Tensor, nn

import si_hub.tuner as tuner
from si_hub.errors import BaseMismatch, ConversionRefused, SiHubError, UsageError
from si_hub.tuner import StyleInjectConfig


@pytest.fixture(autouse=True)
def _peft_notices() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in (
            "Already found a `peft_config` attribute",
            "You are trying to modify a model with PEFT for a second time",
            "Adapter .* was active which is now deleted",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield


def _config(**fields: Any) -> StyleInjectConfig:
    return StyleInjectConfig(
        **{"r": 2, "num_branches": 3, "target_modules": ["fc", "conv"], "init_weights": False, **fields}
    )


def _ours(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if "styleinject" in name}


def test_training_starts_exactly_at_the_base(net: nn.Module, ids: Tensor) -> None:
    expected = net(ids)
    model = get_peft_model(net, _config(init_weights=True))
    assert torch.equal(model(ids), expected)
    downs = [p for name, p in _ours(model).items() if ".down." in name]
    assert all(float(p.detach().abs().min()) > 0 for p in downs)
    assert all(float(p.detach().abs().max()) == 0 for name, p in _ours(model).items() if ".down." not in name)


@pytest.mark.parametrize("init_weights", [True, False])
def test_exactly_our_tensors_are_trained(net: nn.Module, ids: Tensor, init_weights: bool) -> None:
    net.requires_grad_(True)
    model = get_peft_model(net, _config(train_bias=True, init_weights=init_weights))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(_ours(model))
    model.train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimiser.zero_grad()
        (model(ids) - 1).square().mean().backward()
        optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(_ours(model))


def test_a_saved_model_comes_back(net: nn.Module, ids: Tensor, tmp_path: Path) -> None:
    base = copy.deepcopy(net)
    model = get_peft_model(net, _config(router="fixed", train_bias=True, rank_pattern={"conv": 4}, alpha=5.0))
    expected = model(ids)
    model.save_pretrained(str(tmp_path))
    for low_cpu_mem_usage in (False, True):
        again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path), low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(again(ids), expected)
        assert not any(p.requires_grad for p in again.parameters())
    assert torch.equal(PeftModel.from_pretrained(base, str(tmp_path), adapter_name="other")(ids), expected)


def test_saved_keys_do_not_carry_the_adapter_name(net: nn.Module) -> None:
    model = get_peft_model(net, _config(), adapter_name="mine")
    leaves = ("down.weight", "up.weight", "router.weight", "router.bias")
    assert set(get_peft_model_state_dict(model, adapter_name="mine")) == {
        f"base_model.model.{path}.styleinject_layer.{leaf}" for path in ("fc", "conv") for leaf in leaves
    }


def _run_and_reload(net: nn.Module, ids: Tensor, folder: Path, config: StyleInjectConfig) -> dict[str, Any]:
    """Train one step, save with PEFT, load again: the same output; what the adapter's layers are."""
    base = copy.deepcopy(net)
    model = get_peft_model(net, config)
    start = model(ids)
    assert config.init_weights is False or torch.equal(start, base(ids))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(_ours(model))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        (model(ids) - 1).square().mean().backward()
        optimiser.step()
    expected = model(ids)
    assert not torch.allclose(expected, start)
    model.save_pretrained(str(folder))
    for low_cpu_mem_usage in (False, True):
        again = PeftModel.from_pretrained(copy.deepcopy(base), str(folder), low_cpu_mem_usage=low_cpu_mem_usage)
        assert torch.equal(again(ids), expected)
    return tuner.extract(net, "default").layers


def test_cores_share_one_down_matrix_on_spatial_convolutions_alone(net: nn.Module, ids: Tensor, tmp_path: Path) -> None:
    layers = _run_and_reload(net, ids, tmp_path, _config(core=True, init_weights=True, transform="variance"))
    shapes = {path: {leaf: t.shape for leaf, t in layer.tensors.items()} for path, layer in layers.items()}
    assert shapes["conv"] == {
        "down.weight": (2, 8, 1, 1), "core.weight": (6, 2, 3, 3), "up.weight": (8, 2), "router.weight": (3, 8),
        "router.bias": (3,),
    }  # fmt: skip
    assert {leaf: shape for leaf, shape in shapes["fc"].items() if "router" not in leaf} == {
        "down.weight": (6, 12), "up.weight": (8, 2),
    }  # fmt: skip
    assert layers["conv"].branches == 3


def test_a_core_of_a_grouped_convolution_is_refused() -> None:
    with pytest.raises(BaseMismatch, match="a core sees all inputs at once") as caught:
        get_peft_model(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), _config(target_modules=["0"], core=True))
    assert "exclude_modules" in str(caught.value)
    get_peft_model(nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)), _config(target_modules=["0"], core=True))


@pytest.mark.parametrize("train_bias", [False, True])
def test_gains_are_trained_beside_pairs_and_in_further_modules(
    train_bias: bool, net: nn.Module, ids: Tensor, tmp_path: Path
) -> None:
    config = _config(
        target_modules=["fc"], gain_modules=["norm", "rms", "group", "conv", "embed"], train_gain=True,
        train_bias=train_bias, transform="add", num_branches=1, init_weights=True,
    )  # fmt: skip
    layers = _run_and_reload(net, ids, tmp_path, config)
    beside = {"gain", "bias_delta"} if train_bias else {"gain"}
    assert {path: set(layer.tensors) for path, layer in layers.items()} == {
        "fc": {"down.weight", "up.weight"} | beside, **dict.fromkeys(("norm", "rms", "group", "conv", "embed"), beside),
    }  # fmt: skip
    assert layers["norm"].tensors["gain"].shape == (12,)
    # A module named in both has a pair and a gain.
    both = get_peft_model(_plain(net), _config(target_modules=["fc", "conv"], gain_modules=["conv"]), "both")
    assert {path: "gain" in layer.tensors for path, layer in tuner.extract(both, "both").layers.items()} == {
        "fc": False, "conv": True,
    }  # fmt: skip


def _plain(net: nn.Module) -> nn.Module:
    tuner.remove(net)
    return net


def test_gains_alone_are_the_formula_and_fuse(net: Any, ids: Tensor) -> None:
    base = copy.deepcopy(net).double()
    get_peft_model(net.double(), _config(target_modules=[], gain_modules=r"norm|group|conv", train_bias=True))
    net.group.bias.requires_grad_(False)
    layers = tuner.extract(net, "default").layers
    values = {path: {leaf: t.torch().double() for leaf, t in layer.tensors.items()} for path, layer in layers.items()}
    assert set(values) == {"norm", "group", "conv"}
    with torch.no_grad():
        for path, t in values.items():
            # y ↦ gain · y + bias_delta, by hand on the base's own affine parameters.
            module = base.get_submodule(path)
            weight = module.weight
            weight.mul_(t["gain"].reshape(-1, *[1] * (weight.ndim - 1)))
            module.bias.mul_(t["gain"]).add_(t["bias_delta"])
        expected, before = base(ids), net.group.weight.clone()
        torch.testing.assert_close(net(ids), expected, rtol=1e-10, atol=1e-10)
        tuner.fuse_in_place(net)
        torch.testing.assert_close(net(ids), expected, rtol=1e-10, atol=1e-10)
        tuner.unfuse(net)
        assert torch.equal(net.group.weight, before)


def test_what_has_no_gain_of_the_format_is_refused() -> None:
    model = nn.Sequential(nn.LayerNorm((3, 4)), nn.ReLU(), nn.LayerNorm(4))
    for target, words in (("0", "this norm has several axes"), ("1", "class ReLU cannot be adapted")):
        with pytest.raises(BaseMismatch, match=words):
            get_peft_model(model, _config(target_modules=[], gain_modules=[target]))
    with pytest.raises(BaseMismatch, match="linear layers and convolutions have a low-rank pair") as caught:
        get_peft_model(model, _config(target_modules=["2"]))
    assert "gain_modules" in str(caught.value)
    with pytest.raises(UsageError, match="cannot be used when `gain_modules` is a str"):
        _config(gain_modules="a.*", layers_to_transform=[1])


def test_a_norm_of_three_axes_is_no_single_instance() -> None:
    norm = nn.GroupNorm(2, 6).double()
    model = nn.Sequential(copy.deepcopy(norm))
    get_peft_model(model, _config(target_modules=[], gain_modules=["0"], train_bias=True))
    values = {leaf: t.torch() for leaf, t in tuner.extract(model, "default").layers["0"].tensors.items()}
    for batch in ((4, 6), (4, 6, 5)):
        x, ones = torch.randn(batch).double(), [1] * (len(batch) - 2)
        expected = norm(x) * values["gain"].double().reshape(-1, *ones) + values["bias_delta"].reshape(-1, *ones)
        torch.testing.assert_close(model(x), expected)


def test_a_gain_of_a_half_precision_base_is_float32() -> None:
    model = nn.Sequential(nn.Linear(4, 4).bfloat16())
    get_peft_model(model, _config(target_modules=["0"], train_gain=True), autocast_adapter_dtype=False)
    tensors = tuner.extract(model, "default").layers["0"].tensors
    assert (tensors["gain"].dtype, tensors["down.weight"].dtype) == ("F32", "BF16")


def test_a_strangers_gain_modules_are_no_expression_of_pythons(net: nn.Module, ids: Tensor, tmp_path: Path) -> None:
    model = get_peft_model(copy.deepcopy(net), _config(target_modules=["fc"], gain_modules=r"(norm|group)"))
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(copy.deepcopy(net), str(tmp_path))
    assert torch.equal(again(ids), model(ids))
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "gain_modules": r"(norm)\1"}), encoding="utf-8")
    with pytest.raises(SiHubError):
        PeftModel.from_pretrained(net, str(tmp_path))


def test_rank_and_alpha_patterns_set_single_layers(net: nn.Module) -> None:
    get_peft_model(net, _config(r=2, alpha=4.0, rank_pattern={"conv": 4}, alpha_pattern={"fc": 1.0}))
    layers = tuner.extract(net, "default").layers
    assert {path: (layer.rank, layer.alpha, layer.branches) for path, layer in layers.items()} == {
        "fc": (2, 1.0, 3),
        "conv": (4, 4.0, 3),
    }


def test_excluded_modules_stay_as_they_are(net: nn.Module) -> None:
    get_peft_model(net, _config(target_modules=r"fc|conv", exclude_modules=["conv"]))
    assert list(tuner.extract(net, "default").layers) == ["fc"]


def test_several_adapters_are_switched_deleted_and_unloaded(net: nn.Module, ids: Tensor) -> None:
    base = net(ids)
    model = get_peft_model(net, _config(), adapter_name="one")
    one = model(ids)
    model.add_adapter("two", _config(target_modules=["fc"]))
    assert torch.equal(model(ids), one)
    model.set_adapter("two")
    two = model(ids)
    assert not torch.equal(two, one)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name in _ours(model) if ".two." in name
    }
    model.base_model.set_adapter(["one", "two"])
    both = model(ids)
    assert not any(torch.equal(both, other) for other in (base, one, two))
    with model.disable_adapter():
        assert torch.equal(model(ids), base)
    assert torch.equal(model(ids), both)
    model.delete_adapter("one")
    assert list(model.peft_config) == ["two"]
    assert torch.equal(model(ids), two)
    with pytest.raises((UsageError, ValueError)):
        model.delete_adapter("one")
    assert model.unload() is net
    assert torch.equal(net(ids), base)
    assert not _ours(net)
    assert not hasattr(net, "peft_config")


def test_an_adapter_chosen_for_inference_is_not_trained(net: nn.Module) -> None:
    model = get_peft_model(net, _config(), adapter_name="one")
    for inference, trained in ((True, False), (False, True)):
        model.base_model.set_adapter("one", inference_mode=inference)
        assert {p.requires_grad for p in _ours(model).values()} == {trained}


def test_merging_is_exact_or_refused(net: nn.Module, ids: Tensor) -> None:
    base = net(ids)
    model = get_peft_model(net, _config(num_branches=1, transform="add"))
    expected = model(ids)
    model.merge_adapter()
    torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="merged"):
        model.delete_adapter("default")
    model.unmerge_adapter()
    assert torch.equal(model(ids), expected)
    model.merge_adapter()
    assert torch.equal(model.unload()(ids), base)
    model = get_peft_model(net, _config(num_branches=1, transform="add"))
    expected = model(ids)
    assert model.merge_and_unload() is net
    torch.testing.assert_close(net(ids), expected, rtol=1e-4, atol=1e-4)
    assert not _ours(net)
    with pytest.raises(ConversionRefused):
        get_peft_model(net, _config()).merge_and_unload()


def test_half_precision_adapters_are_trained_in_float32(net: nn.Module, ids: Tensor) -> None:
    net.to(torch.bfloat16)
    model = get_peft_model(net, _config())
    assert {p.dtype for p in _ours(model).values()} == {torch.float32}
    out = model(ids)
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in _ours(model).values())


@pytest.mark.parametrize("first", ["low", "ours"])
def test_a_lora_on_the_same_layers_is_stacked(net: nn.Module, ids: Tensor, first: str) -> None:
    lora = LoraConfig(r=2, target_modules=["fc", "conv"], init_lora_weights=False)
    base = net(ids)
    model: Any
    if first == "low":
        model = get_peft_model(get_peft_model(net, lora, adapter_name="low"), _config(), adapter_name="ours")
    else:
        model = get_peft_model(get_peft_model(net, _config(), adapter_name="ours"), lora, adapter_name="low")
    both = model(ids)
    tuner.set_enabled(net, False)
    only_lora = model(ids)
    assert not torch.equal(only_lora, both)
    assert not torch.equal(only_lora, base)
    # T sees the base without the LoRA: the LoRA's part is the same with and without ours before the next layer.
    fc: Any = net.get_submodule("fc")
    x = torch.randn(2, 3, 12)
    tuner.set_enabled(net, True)
    inner = fc.get_base_layer()
    plain = nn.functional.linear(x, inner.weight, inner.bias)
    added = fc(x) - inner(x)
    expected = fc.lora_B["low"](fc.lora_A["low"](x)) * fc.scaling["low"]
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(inner(x), plain)
    tuner.remove(net)
    assert torch.equal(net(ids), only_lora)


def test_a_failed_adapter_does_not_stand_in_the_way_of_the_next(net: nn.Module, ids: Tensor) -> None:
    model = get_peft_model(net, _config(), adapter_name="one")
    before = model(ids)
    with pytest.raises(BaseMismatch, match="norm: only linear layers and convolutions"):
        model.add_adapter("two", _config(target_modules=["fc", "norm"]))
    assert list(tuner.adapters(net)) == ["one"]
    assert torch.equal(model(ids), before)
    model.add_adapter("two", _config())
    assert list(tuner.adapters(net)) == ["one", "two"]


def test_targets_are_required(net: nn.Module) -> None:
    with pytest.raises(UsageError, match="target_modules: no modules to adapt"):
        get_peft_model(net, StyleInjectConfig())
    assert not _ours(net)


def test_a_grouped_convolution_needs_a_rank_its_groups_divide() -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, 3, groups=3))
    with pytest.raises(BaseMismatch, match=r"expected a multiple of 3, found 4"):
        get_peft_model(model, StyleInjectConfig(r=4, target_modules=["0"]))


# diffusers models.


@pytest.fixture
def run() -> Callable[..., Tensor]:
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8)

    def call(unet: Any, **kwargs: Any) -> Tensor:
        output: Tensor = unet(sample, 10, text, cross_attention_kwargs=kwargs or None).sample
        return output

    return call


def _unet_config(**fields: Any) -> StyleInjectConfig:
    return _config(target_modules=["to_q", "to_v", "conv1"], **fields)


def test_diffusers_adds_sets_disables_and_deletes(unet: Any, run: Any) -> None:
    base = run(unet)
    unet.add_adapter(_unet_config(), "one")
    one = run(unet)
    unet.add_adapter(_unet_config(), "two")
    two = run(unet)
    assert unet.active_adapters() == ["two"]
    unet.set_adapter("one")
    assert torch.equal(run(unet), one)
    unet.set_adapters(["one", "two"], [1.0, 0.0])
    assert torch.equal(run(unet), one)
    unet.set_adapters(["two"], [1.0])
    assert torch.equal(run(unet), two)
    unet.disable_adapters()
    assert torch.equal(run(unet), base)
    unet.enable_adapters()
    assert torch.equal(run(unet), two)
    unet.delete_adapters("two")
    unet.set_adapter("one")
    assert torch.equal(run(unet), one)
    unet.delete_adapters("one")
    assert torch.equal(run(unet), base)


def test_removing_the_last_trained_adapter_leaves_no_attribute(unet: Any) -> None:
    before = set(unet.__dict__)
    unet.add_adapter(_unet_config(), "one")
    unet.add_adapter(_unet_config(), "two")
    tuner.remove(unet, "one")
    assert list(unet.peft_config) == ["two"]
    tuner.remove(unet)
    assert set(unet.__dict__) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unet.add_adapter(_unet_config(), "one")


def test_a_call_of_scale_zero_gives_back_the_users_weight(unet: Any, run: Any) -> None:
    base = run(unet)
    unet.add_adapter(_unet_config(), "one")
    unet.set_adapters(["one"], [0.5])
    half = run(unet)
    assert torch.equal(run(unet, scale=0.0), base)
    assert torch.equal(run(unet), half)
    unet.set_adapters(["one"], [0.25])
    quarter = run(unet)
    unet.set_adapters(["one"], [0.5])
    assert torch.equal(run(unet, scale=0.5), quarter)


def test_adapters_of_a_unet_are_saved_and_loaded_by_peft_functions(unet: Any, run: Any) -> None:
    other = copy.deepcopy(unet)
    unet.add_adapter(_unet_config(), "one")
    state = get_peft_model_state_dict(unet, adapter_name="one")
    other.add_adapter(_unet_config(), "two")
    result = set_peft_model_state_dict(other, state, adapter_name="two")
    assert result.unexpected_keys == []
    assert torch.equal(run(other), run(unet))


def test_a_unet_trains_with_gradient_checkpointing(unet: Any, run: Any) -> None:
    unet.add_adapter(_unet_config(), "one")
    unet.train()
    grads = []
    for enable in (False, True):
        if enable:
            unet.enable_gradient_checkpointing()
        unet.zero_grad()
        run(unet).square().mean().backward()
        grads.append({name: p.grad for name, p in unet.named_parameters() if p.grad is not None})
    assert grads[0].keys() == {name for name, _ in _ours(unet).items()} == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name])


def test_a_failed_add_adapter_of_diffusers_does_not_poison_the_next(unet: Any, run: Any) -> None:
    base = run(unet)
    with pytest.raises(ValueError, match="nothing_like_it"):
        unet.add_adapter(_config(target_modules=["nothing_like_it"]), "one")
    assert torch.equal(run(unet), base)
    unet.add_adapter(_unet_config(), "one")
    assert not torch.equal(run(unet), base)


def test_a_trained_adapter_stays_trainable_when_a_lora_is_added(unet: Any) -> None:
    unet.add_adapter(_unet_config(), "one")
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "low")
    unet.set_adapters(["one", "low"])
    assert all(p.requires_grad for p in _ours(unet).values())


def test_managed_adapters_and_those_of_peft_live_side_by_side(unet: Any, run: Any) -> None:
    base = run(unet)
    unet.add_adapter(_unet_config(), "trained")
    component = tuner.extract(unet, "trained")
    trained = run(unet)
    unet.delete_adapters("trained")
    tuner.inject(unet, component, name="managed")
    assert torch.equal(run(unet), trained)
    unet.add_adapter(_unet_config(), "trained")
    unet.disable_adapters()
    assert torch.equal(run(unet), trained)
    unet.unload_lora()
    assert torch.equal(run(unet), trained)
    tuner.remove(unet)
    assert torch.equal(run(unet), base)


@pytest.mark.parametrize("merge", [False, True])
def test_unloading_a_lora_of_peft_leaves_ours(net: nn.Module, ids: Tensor, whole: Any, merge: bool) -> None:
    plain = net(ids)
    tuner.inject(net, whole(), name="style")
    adapted = net(ids)
    model = get_peft_model(net, LoraConfig(r=2, target_modules=["fc", "conv"], init_lora_weights=False))
    stacked = model(ids)
    assert not torch.equal(stacked, adapted)
    unloaded = model.merge_and_unload() if merge else model.unload()
    assert unloaded is net
    if merge:
        torch.testing.assert_close(net(ids), _merged_first(net, ids), rtol=1e-4, atol=1e-4)
        assert not torch.equal(net(ids), adapted)
    else:
        assert torch.equal(net(ids), adapted)
    assert list(tuner.adapters(net)) == ["style"]
    tuner.remove(net)
    assert torch.equal(net(ids), plain) is not merge


def _merged_first(net: nn.Module, ids: Tensor) -> Tensor:
    """The same adapter put anew on a copy of the net as it is now: a fused LoRA counts as base."""
    component = tuner.extract(net, "style")
    copied = copy.deepcopy(net)
    tuner.remove(copied)
    tuner.inject(copied, component, name="anew")
    output: Tensor = copied(ids)
    return output


def test_a_second_adapter_is_loaded_and_described_by_peft(net: nn.Module, ids: Tensor, tmp_path: Path) -> None:
    model = get_peft_model(net, _config())
    expected = model(ids)
    model.save_pretrained(str(tmp_path))
    model.load_adapter(str(tmp_path), "second")
    model.set_adapter("second")
    assert torch.equal(model(ids), expected)
    status = model.get_model_status()
    assert status.available_adapters == ["default", "second"]
    assert status.active_adapters == ["second"]
    assert status.peft_types == {"default": "STYLEINJECT", "second": "STYLEINJECT"}


def test_loading_a_damaged_state_is_told(net: nn.Module, tmp_path: Path) -> None:
    model = get_peft_model(net, _config())
    state = get_peft_model_state_dict(model)
    state["base_model.model.fc.styleinject_layer.up.weight"] = torch.zeros(3, 3)
    with pytest.raises(RuntimeError, match="size mismatch"):
        set_peft_model_state_dict(model, state)
    state.pop("base_model.model.fc.styleinject_layer.up.weight")
    result = set_peft_model_state_dict(
        model, {**state, "base_model.model.fc.styleinject_layer.sideways": torch.ones(1)}
    )
    assert [key for key in result.unexpected_keys if "styleinject" in key] == [
        "base_model.model.fc.styleinject_layer.sideways"
    ]
    assert "base_model.model.fc.styleinject_layer.default.up.weight" in result.missing_keys


@pytest.mark.parametrize("targets", ["all-linear", r"(.*\.)?(down|up|router|fc)", ["down", "up", "router", "fc"]])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_lora_that_looks_for_every_layer_takes_none_of_ours(
    targets: Any, known: bool, wrapped: bool, net: nn.Module, ids: Tensor
) -> None:
    base = copy.deepcopy(net)
    if known:
        inject_adapter_in_model(_config(), net, "ours")
    else:
        inject_adapter_in_model(_config(), base, "ours")
        component = tuner.extract(base, "ours")
        tuner.remove(base)
        tuner.inject(net, component, name="ours")
    kept, expected = _ours(net), net(ids)
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    lora = get_peft_model(net, config, "theirs") if wrapped else inject_adapter_in_model(config, net, "theirs")
    assert {name for name, _ in net.named_parameters() if "lora_" in name} == {
        "fc.lora_A.theirs.weight",
        "fc.lora_B.theirs.weight",
    }
    assert {name.replace(".base_layer", "") for name in _ours(net)} == set(kept)
    assert not torch.allclose(lora(ids), expected, atol=1e-3)


def test_all_linear_of_a_second_adapter_means_the_base(net: nn.Module) -> None:
    model = get_peft_model(net, _config(), "one")
    model.add_adapter("two", _config(target_modules="all-linear"))
    assert model.peft_config["two"].target_modules == {"fc"}
    assert not any(name.count("styleinject_layer") > 1 for name in _ours(model))
