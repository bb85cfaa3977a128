"""A LoRA of a stranger that would be converted by itself, and changes what decodes or checks the picture."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

import si_hub
from si_hub.errors import SiHubError
from tests.miniature import BASE, KOHYA_LORA

#: A module of the VAE and one of the safety checker.
DECODER, CHECKER = "decoder.conv_in", "vision_model.encoder.layers.0.self_attn.q_proj"
_CONTAINER = "base_model.model."

#: A way of writing names → the beginning of a name for a component and a module, its tensors' ends.
SPELLINGS: dict[str, Callable[[str, str], str]] = {
    "diffusers": lambda component, path: f"{component}.{path}",
    "kohya": lambda component, path: f"lora_{component}_{path.replace('.', '_')}",
    "kohya, as the unet's": lambda component, path: f"lora_unet_{component}_{path.replace('.', '_')}",
    "kohya, without a component": lambda component, path: f"lora_unet_{path.replace('.', '_')}",
    "a checkpoint": lambda component, path: f"first_stage_model.{path}",
    "a checkpoint's unet": lambda component, path: f"model.diffusion_model.{component}.{path}",
    "peft": lambda component, path: f"{_CONTAINER}{component}.{path}",
    "peft, bare": lambda component, path: f"{_CONTAINER}{path}",
    "bare": lambda component, path: path,
    "up and out of the unet": lambda component, path: f"unet...{component}.{path}",
}
KINDS = {
    "a pair": lambda module: {
        "lora_A.weight": torch.ones(1, *module.weight.shape[1:]),
        "lora_B.weight": torch.ones(len(module.weight), 1, *[1] * (module.weight.ndim - 2)),
    },
    "a difference": lambda module: {"diff": torch.ones(module.weight.shape), "diff_b": torch.ones(module.bias.shape)},
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The miniature with a small safety checker."""
    torch.manual_seed(0)
    si_hub.enable()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config={**sizes, "image_size": 32, "patch_size": 16}))
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return StableDiffusionPipeline.from_pretrained(BASE, safety_checker=checker, feature_extractor=extractor)


def outputs(pipe: Any) -> list[torch.Tensor]:
    """What decodes and what checks, for fixed inputs."""
    draw = torch.Generator().manual_seed(0)
    latents, pictures = torch.randn(1, 8, 4, 4, generator=draw), torch.randn(1, 3, 32, 32, generator=draw)
    channels = pipe.vae.config.latent_channels
    with torch.no_grad():
        return [pipe.vae.decode(latents[:, :channels]).sample, pipe.safety_checker.vision_model(pictures)[0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_name_of_a_foreign_file_reaches_the_decoder_or_the_checker(
    spelling: str, kind: str, pipe: Any, tmp_path: Path
) -> None:
    before = outputs(pipe)
    good = {name: value for name, value in load_file(KOHYA_LORA).items() if "_attn1_to_q." in name}
    for component, path in (("vae", DECODER), ("safety_checker", CHECKER)):
        stem = SPELLINGS[spelling](component, path)
        bad = {
            f"{stem}.{end}": value for end, value in KINDS[kind](getattr(pipe, component).get_submodule(path)).items()
        }
        for number, tensors in enumerate((bad, {**good, **bad})):
            file = tmp_path / f"{component}{number}.safetensors"
            save_file(tensors, file)
            with pytest.raises(SiHubError):
                pipe.load_styleinject_weights(file)
            assert pipe.get_list_styleinject_adapters() == {}
            # Where it is asked for, what fits is loaded, and that is denoisers and text encoders.
            with suppress(SiHubError):
                pipe.load_styleinject_weights(file, strict=False)
            assert pipe.get_list_styleinject_adapters().keys() <= {"unet", "text_encoder"}
            assert all(map(torch.equal, outputs(pipe), before))
            pipe.unload_styleinject_weights()
