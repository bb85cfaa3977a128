"""A base model read off a folder goes by the shipped name where its denoiser is that one's, module by module."""

from __future__ import annotations

from dataclasses import replace

import pytest

from si_hub.architectures import Architecture, Model, from_folder, load
from si_hub.architectures.known import under_known_name
from tests.architectures.conftest import WriteSparse


def as_read(name: str, *components: str) -> Architecture:
    """Some components of a shipped base model, as a folder gives them: under the pipeline's class."""
    held = load(name).components
    return Architecture("SomePipeline", {part: held[part] for part in components or held}, "v_prediction")


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl", "flux", "sd35-large", "wan21-t2v-14b"])
def test_a_folder_of_a_shipped_model_is_that_model_and_what_it_predicts_is_its_own(name: str) -> None:
    found = under_known_name(as_read(name))
    assert (found.name, found.aliases, found.prediction_type) == (name, load(name).aliases, "v_prediction")
    assert found.components == as_read(name).components


@pytest.mark.parametrize(("name", "component"), [("sdxl", "unet"), ("flux", "transformer")])
def test_the_denoiser_alone_is_enough(name: str, component: str) -> None:
    assert under_known_name(as_read(name, component)).name == name


def test_a_text_encoder_alone_is_no_known_model() -> None:
    encoder = as_read("sd15", "text_encoder")
    assert under_known_name(encoder) is encoder


def test_one_module_of_another_size_makes_another_model() -> None:
    unet = load("sd15").components["unet"]
    first = unet.modules["conv_in"]
    inpainting = Model(unet.class_name, {**unet.modules, "conv_in": replace(first, shape=(320, 9, 3, 3))})
    found = Architecture("StableDiffusionInpaintPipeline", {"unet": inpainting})
    assert under_known_name(found) is found
    one_less = {path: module for path, module in unet.modules.items() if path != "conv_out"}
    assert under_known_name(Architecture("X", {"unet": Model(unet.class_name, one_less)})).name == "X"


def test_a_folder_on_disk(tmp_path_factory: pytest.TempPathFactory, write_sparse: WriteSparse) -> None:
    folder = tmp_path_factory.mktemp("models") / "unet"
    folder.mkdir()
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in load("sd15").components["unet"].modules.items():
        shapes[f"{path}.weight"] = module.shape
        if module.bias:
            shapes[f"{path}.bias"] = module.shape[:1]
    write_sparse(folder / "diffusion_pytorch_model.safetensors", shapes)
    (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}', encoding="utf-8")
    read = from_folder(folder)
    assert read.name == "UNet2DConditionModel"
    assert under_known_name(read).name == "sd15"
