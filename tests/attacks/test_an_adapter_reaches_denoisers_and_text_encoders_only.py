"""A stranger's adapter that would switch off the safety checker, or change what decodes the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

import si_hub
from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.cli import main
from si_hub.errors import BaseMismatch
from si_hub.storage.tensors import Tensor
from tests.miniature import BASE

CONCEPTS = 17


@pytest.fixture(scope="module", autouse=True)
def _enabled() -> None:
    torch.set_num_threads(1)
    si_hub.enable()


@pytest.fixture
def checked() -> Any:
    """The miniature with a small safety checker that flags every picture."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**sizes, "image_size": 32, "patch_size": 16}, projection_dim=8)
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data.fill_(-2.0)
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=checker, feature_extractor=extractor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flags(pipe: Any) -> list[bool]:
    draw = torch.Generator().manual_seed(0)
    return list(pipe("a red circle", num_inference_steps=1, generator=draw).nsfw_content_detected)


def adapter(component: str, path: str, **leaves: torch.Tensor) -> Adapter:
    layer = Layer({leaf: Tensor.from_torch(value) for leaf, value in leaves.items()})
    return Adapter(BaseModel("sd15"), {component: Component(None, {path: layer})})


def unchecking() -> Adapter:
    return adapter("safety_checker", "concept_embeds_weights", param_delta=torch.full((CONCEPTS,), 100.0))


def test_the_safety_checker_is_not_switched_off(checked: Any) -> None:
    assert flags(checked) == [True]
    with pytest.raises(BaseMismatch, match=r"safety_checker: the adapter would change what is neither.*unet.*trust"):
        checked.load_styleinject_weights(unchecking(), strict=False)
    assert checked.get_list_styleinject_adapters() == {}
    assert flags(checked) == [True]


def test_a_part_of_an_adapter_for_the_unet_does_not_carry_another_in(checked: Any) -> None:
    both = adapter("unet", "conv_in", bias_delta=torch.ones(32))
    both.components |= adapter("vae", "decoder.conv_in", gain=torch.ones(64)).components
    with pytest.raises(BaseMismatch, match=r"vae: the adapter would change"):
        checked.load_styleinject_weights(both, strict=False)
    assert checked.get_list_styleinject_adapters() == {}


def test_a_hotswap_reaches_no_further(checked: Any) -> None:
    size = checked.unet.conv_in.bias.shape
    checked.load_styleinject_weights(adapter("unet", "conv_in", bias_delta=torch.zeros(size)), "good")
    with pytest.raises(BaseMismatch, match="safety_checker: the adapter would change"):
        checked.load_styleinject_weights(unchecking(), "good", hotswap=True, strict=False)
    assert flags(checked) == [True]


def test_who_names_the_component_gets_it(checked: Any) -> None:
    checked.load_styleinject_weights(unchecking(), allow_components=["safety_checker"])
    checked.safety_checker(torch.zeros(1, 3, 32, 32), [torch.zeros(8, 8, 3).numpy()])
    assert checked.get_list_styleinject_adapters() == {"safety_checker": ["default_0"]}


def test_inspect_and_validate_say_which_component_it_is(tmp_path: Path) -> None:
    path = file_format.write(unchecking(), tmp_path / "x.safetensors").path
    for command in ("inspect", "validate"):
        said = CliRunner().invoke(main, [command, str(path)])
        assert "changes safety_checker, neither denoiser nor text encoder" in said.stdout
        [answer] = [json.loads(CliRunner().invoke(main, [command, str(path), "--json"]).stdout)]
        answer = answer[0] if isinstance(answer, list) else answer
        assert answer["out_of_reach"] == ["safety_checker"]
