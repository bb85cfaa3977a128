"""What is no adapter is told by the names of its tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub import words
from si_hub.architectures.recognise import FILE_KINDS, PICKLES, may_be_pickle, recognise_kind

NOT_ADAPTERS: dict[str, list[str]] = {
    "a ControlNet-LLLite": ["lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight"],
    "a LoRA of Stable Cascade in its own trainer's numbered layout": ["weights.0.lora_down", "weights.0.lora_up"],
    "a quantised LoRA of nunchaku": ["blocks.0.qkv_proj.lora_down", "blocks.0.qkv_proj.wscales"],
    "an IP-Adapter": ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight", "ip_adapter.0.to_q_lora.down.weight"],
    "a hypernetwork": ["768.0.linear1.weight"],
    "a LoRA in cloneofsimo's numbered layout": ["unet:0:up", "unet:0:down"],
    "a ControlNet": ["control_model.input_blocks.0.0.weight"],
    "a T2I-Adapter": ["adapter.body.0.in_conv.weight"],
    "a textual inversion alone": ["emb_params"],
    "a motion module": ["down_blocks.0.motion_modules.0.attn.processor.to_q_lora.down.weight"],
    "a full checkpoint": ["model.diffusion_model.out.2.weight", "first_stage_model.encoder.conv_in.weight"],
    "a VAE": ["encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight", "quant_conv.weight"],
    "an upscaler": ["model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"],
    "a text encoder": ["text_model.encoder.layers.0.mlp.fc1.weight", "text_model.encoder.layers.0.mlp.fc1.bias"],
    "a full model": ["double_blocks.0.attention.no_such.scale", "double_blocks.0.no_such.bias"],
}  # fmt: skip


def test_every_kind_has_an_example() -> None:
    assert set(NOT_ADAPTERS) == {kind.name for kind in FILE_KINDS}


@pytest.mark.parametrize("kind", NOT_ADAPTERS)
def test_what_is_no_adapter_is_told_by_its_names(kind: str) -> None:
    found = recognise_kind(NOT_ADAPTERS[kind], NOT_ADAPTERS[kind])
    assert found is not None
    assert found[0].name == kind
    assert found[1] in NOT_ADAPTERS[kind]


def test_names_that_are_not_plain_never_speak_for_a_whole_model_but_for_a_controlnet() -> None:
    assert recognise_kind(NOT_ADAPTERS["a full model"], []) is None
    assert recognise_kind(NOT_ADAPTERS["a VAE"], NOT_ADAPTERS["a VAE"][:1]) is None
    assert recognise_kind(NOT_ADAPTERS["a ControlNet"], []) is not None


def test_what_can_be_tuned_as_a_model_is_one() -> None:
    assert {kind.name for kind in FILE_KINDS if kind.is_model} == {
        "a full checkpoint", "a full model", "a text encoder", "a VAE"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.bias", "blocks.0.modulation"], "Wan"),
        (["vace_blocks.0.before_proj.weight", "vace_blocks.0.before_proj.bias"], "Wan 2.1 VACE"),
        (["transformer_blocks.0.attn.to_add_out.weight", "distilled_guidance_layer.in_proj.weight"], "Chroma 1"),
        (["diffusion_model.double_blocks.0.txt_attn.qkv.weight", "diffusion_model.vector_in.in_layer.weight_scale",
          "diffusion_model.double_blocks.0.txt_attn.qkv.comfy_quant", "diffusion_model.time_in.in_layer.input_scale"],
         "FLUX.1 or HunyuanVideo"),
        (["cap_embedder.0.weight", "context_refiner.0.attention.qkv.weight", "x_pad_token"],
         "Z-Image and Z-Image-Turbo"),
    ],
)  # fmt: skip
def test_a_whole_model_is_called_what_it_is(names: list[str], title: str) -> None:
    found = recognise_kind(names, names)
    assert found is not None
    assert found[0].name == f"a whole model ({title})"
    assert found[0].is_model
    assert "si_hub.distill.distill(BASE, TUNED)" in found[0].hint()
    with words.at_command_line():
        assert "si-hub distill BASE TUNED" in found[0].hint()


def test_a_model_that_is_not_known_is_a_model_all_the_same() -> None:
    names = ["stages.0.mixer.weight", "stages.0.mixer.bias", "head.weight"]
    found = recognise_kind(names, names)
    assert found is not None
    assert (found[0].name, found[1], found[0].is_model) == ("a model, or a part of one", names[0], True)
    assert recognise_kind([*names, "stages.0.mixer.lora_A.weight"], names) is None
    assert recognise_kind(["weights", "biases"], ["weights", "biases"]) is None


@pytest.mark.parametrize("suffix", [*PICKLES, ".safetensors"])
def test_a_file_that_is_named_like_a_pickle_and_not_empty_may_be_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"")
    assert not may_be_pickle(path)
    path.write_bytes(b"PK")
    assert may_be_pickle(path) is (suffix in PICKLES)
