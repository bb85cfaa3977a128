"""diffusers' own LoRA functions, before and after ours: neither may notice the other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

import si_hub.tuner as tuner
from si_hub.adapter import Component, Layer
from si_hub.storage.tensors import Tensor as Stored

PATHS = (
    "conv_in",
    "time_embedding.linear_1",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.resnets.0.conv1",
    "mid_block.attentions.0.proj_in",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
)
TARGETS = ["to_q", "to_out.0", "conv1"]


@pytest.fixture(autouse=True)
def _peft_notices() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        yield


@pytest.fixture(scope="module")
def run() -> Callable[..., Tensor]:
    torch.manual_seed(3)
    sample, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 8)

    @torch.no_grad()
    def call(unet: Any, scale: float | None = None) -> Tensor:
        kwargs = None if scale is None else {"scale": scale}
        output: Tensor = unet(sample, 10, text, cross_attention_kwargs=kwargs).sample
        return output

    return call


@pytest.fixture
def ours(_unet: UNet2DConditionModel, make_layer: Any) -> Component:
    return _adapter(_unet, make_layer)


def _adapter(unet: nn.Module, make_layer: Any) -> Component:
    torch.manual_seed(1)
    layers = {path: make_layer(unet.get_submodule(path), 2, "none", "variance") for path in PATHS}
    for layer in layers.values():
        layer.alpha = 0.5
    return Component(layers=layers)


def _lora(unet: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    donor = inject_adapter_in_model(
        LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS, init_lora_weights=False), copy.deepcopy(unet)
    )
    return dict(get_peft_model_state_dict(donor))


def _relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(params=["ours first", "LoRA first"])
def both(request: pytest.FixtureRequest, unet: Any, ours: Component) -> Any:
    """A UNet with a LoRA named lora and a managed adapter named style."""
    state = _lora(unet)
    if request.param == "LoRA first":
        unet.load_lora_adapter(state, prefix=None, adapter_name="lora")
    assert len(tuner.inject(unet, ours, name="style").matched) == len(PATHS)
    if request.param == "ours first":
        unet.load_lora_adapter(state, prefix=None, adapter_name="lora")
    return unet


@pytest.fixture(scope="module")
def outputs(_unet: Any, make_layer: Any, run: Any) -> dict[str, Tensor]:
    """What the base gives, ours alone, the LoRA alone, and both (the LoRA first)."""
    ours = _adapter(_unet, make_layer)
    base, alone, lora, together = (copy.deepcopy(_unet) for _ in range(4))
    state = _lora(_unet)
    tuner.inject(alone, ours, name="style")
    for model in (lora, together):
        model.load_lora_adapter(state, prefix=None, adapter_name="lora")
    tuner.inject(together, ours, name="style")
    found = {"base": run(base), "ours": run(alone), "lora": run(lora), "both": run(together)}
    pairs = [("base", "ours"), ("base", "lora"), ("ours", "both"), ("lora", "both")]
    assert all(_relative(found[a], found[b]) > 1e-3 for a, b in pairs)
    return found


def test_the_order_of_loading_does_not_matter(both: Any, run: Any, outputs: Any) -> None:
    assert torch.equal(run(both), outputs["both"])


def test_unloading_the_lora_leaves_ours(both: Any, run: Any, outputs: Any) -> None:
    both.unload_lora()
    assert torch.equal(run(both), outputs["ours"])
    tuner.remove(both)
    assert torch.equal(run(both), outputs["base"])


def test_removing_ours_leaves_the_lora(both: Any, run: Any, outputs: Any) -> None:
    tuner.remove(both)
    assert torch.equal(run(both), outputs["lora"])
    both.unload_lora()
    assert torch.equal(run(both), outputs["base"])


def test_disabling_and_enabling_the_lora_leaves_ours(both: Any, run: Any, outputs: Any) -> None:
    both.disable_lora()
    assert torch.equal(run(both), outputs["ours"])
    both.enable_lora()
    assert torch.equal(run(both), outputs["both"])


def test_disabling_ours_leaves_the_lora(both: Any, run: Any, outputs: Any) -> None:
    tuner.set_enabled(both, False)
    assert torch.equal(run(both), outputs["lora"])


def test_deleting_the_lora_leaves_ours(both: Any, run: Any, outputs: Any) -> None:
    both.delete_adapters("lora")
    assert torch.equal(run(both), outputs["ours"])
    both.delete_adapters("style")
    assert torch.equal(run(both), outputs["ours"])


def test_set_adapters_weighs_the_lora_and_leaves_ours(both: Any, run: Any, outputs: Any) -> None:
    both.set_adapters(["lora"], [0.0])
    assert _relative(run(both), outputs["ours"]) < 1e-5
    assert tuner.adapters(both)["style"].weights == dict.fromkeys(PATHS, 1.0)
    both.set_adapters(["lora"], [1.0])
    assert torch.equal(run(both), outputs["both"])


def test_set_adapters_by_block_passes_the_door(unet: Any, ours: Component, run: Any, outputs: Any) -> None:
    state = {key: value for key, value in _lora(unet).items() if "attentions" in key}
    unet.load_lora_adapter(state, prefix=None, adapter_name="lora")
    tuner.inject(unet, ours, name="style")
    unet.set_adapters(["lora"], [{"down": 0.0, "mid": 0.0, "up": 0.0}])
    assert _relative(run(unet), outputs["ours"]) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_fusing_the_lora_leaves_ours_and_unfusing_too(both: Any, run: Any, outputs: Any, scale: float) -> None:
    both.set_adapters(["lora"], [scale])
    expected = run(both)
    both.set_adapters(["lora"], [1.0])
    both.fuse_lora(lora_scale=scale)
    # T now sees the fused LoRA as part of the base, so only the fused weights are compared exactly.
    tuner.set_enabled(both, False)
    fused = run(both)
    tuner.set_active(both, {"style": 0.0})
    tuner.set_enabled(both, True)
    assert torch.equal(run(both), fused)
    tuner.set_active(both, {"style": 1.0})
    assert _relative(run(both), fused) > 1e-3
    both.unfuse_lora()
    both.set_adapters(["lora"], [scale])
    assert _relative(run(both), expected) < 1e-5


def test_fusing_ours_leaves_the_lora(both: Any, unet: Any, run: Any, ours: Component, outputs: Any) -> None:
    tuner.remove(both)
    for layer in ours.layers.values():
        layer.transform = "add"
        del layer.tensors["router.weight"]
    tuner.inject(both, ours, name="style")
    expected = run(both)
    tuner.fuse_in_place(both)
    assert _relative(run(both), expected) < 1e-4
    both.disable_lora()
    both.enable_lora()
    tuner.remove(both)
    assert torch.equal(run(both), outputs["lora"])


@pytest.mark.parametrize("ours_first_out", [True, False])
def test_fused_adapters_and_fused_loras_come_out_in_any_order(
    both: Any, run: Any, ours: Component, outputs: Any, ours_first_out: bool
) -> None:
    tuner.remove(both)
    for layer in ours.layers.values():
        layer.transform = "add"
        del layer.tensors["router.weight"]
    tuner.inject(both, ours, name="style")
    expected = run(both)
    tuner.fuse_in_place(both)
    both.fuse_lora()
    assert _relative(run(both), expected) < 1e-4
    if not ours_first_out:
        both.unfuse_lora()
    with pytest.warns(UserWarning, match="changed while an adapter was fused"):
        tuner.unfuse(both)
    if ours_first_out:
        both.unfuse_lora()
    tuner.remove(both)
    assert _relative(run(both), outputs["lora"]) < 1e-4
    both.unload_lora()
    assert _relative(run(both), outputs["base"]) < 1e-4


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_scale_of_a_call_scales_ours_and_is_taken_back(
    both: Any, run: Any, outputs: Any, scale: float, ours: Component
) -> None:
    tuner.set_active(both, {"style": 0.8})
    both.set_adapters(["lora"], [1.0])
    before = run(both)
    scaled = run(both, scale)
    assert torch.equal(run(both), before)
    assert tuner.adapters(both)["style"].weights["conv_in"] == 0.8
    tuner.set_active(both, {"style": 0.8 * scale})
    both.set_adapters(["lora"], [scale])
    assert _relative(scaled, run(both)) < 1e-5
    if scale == 0:
        assert _relative(scaled, outputs["base"]) < 1e-5


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_scale_of_a_call_works_without_any_lora(
    unet: Any, run: Any, outputs: Any, ours: Component, scale: float
) -> None:
    tuner.inject(unet, ours, name="style")
    scaled = run(unet, scale)
    assert torch.equal(run(unet), outputs["ours"])
    tuner.set_active(unet, {"style": scale})
    assert torch.equal(run(unet), scaled)


def test_a_call_that_fails_takes_its_scale_back_too(unet: Any, run: Any, outputs: Any, ours: Component) -> None:
    tuner.inject(unet, ours, name="style")
    for scale in (0.0, 0.5):
        with pytest.raises(RuntimeError):
            unet(torch.randn(1, 3, 8, 8), 10, torch.randn(1, 5, 8), cross_attention_kwargs={"scale": scale})
        assert torch.equal(run(unet), outputs["ours"])


def test_automatic_names_of_loras_do_not_count_ours(unet: Any, ours: Component) -> None:
    tuner.inject(unet, ours, name="style")
    for expected in (["default_0"], ["default_0", "default_1"]):
        unet.load_lora_adapter(_lora(unet, seed=len(expected)), prefix=None)
        assert list(unet.peft_config) == expected


def test_a_pipeline_lists_only_its_loras(unet: Any, ours: Component, run: Any, outputs: Any) -> None:
    pipe = _pipeline(unet)
    tuner.inject(pipe.unet, ours, name="style")
    assert pipe.get_active_adapters() == []
    assert pipe.get_list_adapters() == {}
    pipe.load_lora_weights({f"unet.{key}": value for key, value in _lora(_bare(unet)).items()}, adapter_name="lora")
    assert pipe.get_active_adapters() == ["lora"]
    assert pipe.get_list_adapters() == {"unet": ["lora"]}
    assert torch.equal(run(pipe.unet), outputs["both"])
    pipe.set_adapters(["lora"], [0.3])
    pipe.unload_lora_weights()
    assert torch.equal(run(pipe.unet), outputs["ours"])


def test_a_pipeline_counts_only_its_loras_as_fused(unet: Any, ours: Component) -> None:
    pipe = _pipeline(unet)
    tuner.inject(pipe.unet, ours, name="style")
    pipe.unet.load_lora_adapter(_lora(_bare(unet)), prefix=None, adapter_name="lora")
    pipe.fuse_lora(lora_scale=0.5)
    assert set(pipe.fused_loras) == {"lora"}
    assert tuner.adapters(pipe.unet)["style"].fused is None
    pipe.unfuse_lora()
    assert not pipe.fused_loras


def _bare(unet: nn.Module) -> nn.Module:
    """The same UNet without adapters, to shape a LoRA for it."""
    bare = copy.deepcopy(unet)
    tuner.remove(bare)
    return bare


def test_a_text_encoder_is_scaled_by_the_pipeline(unet: Any) -> None:
    pipe = _pipeline(unet)
    path = next(name for name, _ in pipe.text_encoder.named_modules() if name.endswith("layers.0.mlp.fc1"))
    torch.manual_seed(2)
    layer = Layer({"bias_delta": Stored.from_torch(torch.randn(16))})
    frozen = path if path.startswith("text_model.") else f"text_model.{path}"
    assert tuner.inject(pipe.text_encoder, Component(layers={frozen: layer}), name="style").matched == [frozen]
    ids = torch.arange(7)[None]
    seen: list[float] = []
    hooked = pipe.text_encoder.get_submodule(path)
    from si_hub.tuner.door import find_door

    def look(*_: Any) -> None:
        door = find_door(pipe.text_encoder)
        assert door is not None
        seen.append(door.control.scale)

    hooked.register_forward_pre_hook(look)
    from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

    for scale in (0.5, 0.0, 1.0):
        scale_lora_layers(pipe.text_encoder, scale)
        # Model offloading moves the encoder between scaling and calling it.
        pipe.text_encoder.to("cpu")
        pipe.text_encoder(ids)
        unscale_lora_layers(pipe.text_encoder, scale)
        pipe.text_encoder(ids)
    assert seen == [0.5, 1.0, 0.0, 1.0, 1.0, 1.0]


def test_lora_on_all_linear_layers_does_not_change_ours(unet: Any, ours: Component, run: Any, outputs: Any) -> None:
    tuner.inject(unet, ours, name="style")
    before = copy.deepcopy(tuner.extract(unet, "style"))
    config = LoraConfig(r=2, target_modules="all-linear")
    inject_adapter_in_model(config, unet, "lora")
    assert torch.equal(run(unet), outputs["ours"])
    after = tuner.extract(unet, "style")
    assert after.layers.keys() == before.layers.keys()


def _pipeline(unet: Any) -> Any:
    torch.manual_seed(4)
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=32,
            max_position_embeddings=16,
        )
    )
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
