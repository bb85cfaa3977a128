"""Shipped configurations: modules of exactly the sizes of the shipped tables, and schedules of the releases."""

from __future__ import annotations

from importlib import import_module

import diffusers
import pytest
import torch

from si_hub import architectures
from si_hub.architectures.folder import frozen_path
from si_hub.architectures.model import modules_from_shapes
from si_hub.distill.running.releases import RELEASES


@pytest.mark.parametrize("name", RELEASES)
def test_configurations_make_the_modules_of_the_tables(name: str) -> None:
    release, architecture = RELEASES[name], architectures.load(name)
    assert release.models.keys() == {*architecture.components, "vae"}
    for component, model in architecture.components.items():
        part = release.models[component]
        kind = getattr(import_module(part.library), part.class_name)
        with torch.device("meta"):
            made = kind(**part.config) if part.library == "diffusers" else kind(kind.config_class(**part.config))
        shapes = {frozen_path(key, part.class_name): tuple(value.shape) for key, value in made.state_dict().items()}
        assert modules_from_shapes(shapes) == model.modules


#: diffusers' own examples of these models: heads of 64 but for OpenAI's activation, latents a thirteenth as large.
@pytest.mark.parametrize(
    ("name", "side", "factor", "final"), [("sd15", 64, 0.18215, "quick_gelu"), ("sdxl", 128, 0.13025, "gelu")]
)
def test_what_no_shape_shows_is_the_releases(name: str, side: int, factor: float, final: str) -> None:
    release = RELEASES[name]
    with torch.device("meta"):
        vae = diffusers.AutoencoderKL(**release.models["vae"].config)
    assert vae.config.scaling_factor == factor
    assert release.sides[0] == side
    last = [part for component, part in release.models.items() if component.startswith("text_")][-1]
    assert last.config["hidden_act"] == final
    assert last.config["hidden_size"] // last.config["num_attention_heads"] == 64


@pytest.mark.parametrize(
    ("name", "prediction", "markers", "noise_at_the_end"),
    [
        ("sd15", "epsilon", (), 0.00466), ("sd21", "v_prediction", (), 0.00466), ("sdxl", "epsilon", (), 0.00466),
        ("sdxl", "v_prediction", ("v_pred", "ztsnr"), 0.0),
    ],
)  # fmt: skip
def test_schedules_end_in_the_releases_noise(
    name: str, prediction: str, markers: tuple[str, ...], noise_at_the_end: float
) -> None:
    """0.00466 is ᾱ of the last of a thousand scaled linear steps, Π(1 − β), by hand."""
    kind, config = RELEASES[name].schedule(prediction, dict.fromkeys(markers))
    scheduler = getattr(diffusers, kind)(**config)
    assert scheduler.config.prediction_type == prediction
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(noise_at_the_end, abs=2e-5)
