"""A denoiser is called in training as its own pipeline calls it in sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from si_hub.errors import CannotRun
from si_hub.training.calls import denoiser_name, predict
from si_hub.training.encoded import live_texts
from si_hub.training.encoding import text_lengths
from tests.distill.families import flux, sd3
from tests.miniature import MINIATURE

#: The miniature's three, SD3, and a Flux that takes its guidance as an argument.
BASES = ["base", "sdxl", "dit", "sd3", "guided"]


def load(name: str, folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    tiny = {"sd3": sd3, "guided": flux}
    place = tiny[name](folder / name) if name in tiny else MINIATURE / name
    return DiffusionPipeline.from_pretrained(place, **({"safety_checker": None} if name == "base" else {}))


@pytest.mark.parametrize("name", BASES)
def test_it_answers_what_the_pipeline_is_answered(name: str, tmp_path: Path) -> None:
    pipeline = load(name, tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    denoiser = getattr(pipeline, denoiser_name(pipeline))
    calls: list[tuple[dict[str, Any], Tensor]] = []

    def remember(_: Any, args: Any, kwargs: dict[str, Any], found: Any) -> None:
        given = dict(kwargs)
        if args:
            given |= dict(zip(("sample", "timestep"), args, strict=False))
        calls.append((given, found[0]))

    handle = denoiser.register_forward_hook(remember, with_kwargs=True)
    prompt = "a large red circle at the left, on sand"
    side = 8 * pipeline.vae_scale_factor
    pipeline(
        prompt, num_inference_steps=2, guidance_scale=1.0, height=side, width=side, output_type="latent",
        **text_lengths(pipeline),
    )  # fmt: skip
    handle.remove()
    given, wanted = calls[-1]
    noisy = given["sample"] if "sample" in given else given["hidden_states"]
    time = given["timestep"].reshape(-1)[:1].float()
    if name in ("dit", "guided"):
        scale = pipeline.vae_scale_factor
        noisy = pipeline._unpack_latents(noisy, side, side, scale)
        wanted = pipeline._unpack_latents(wanted, side, side, scale)
        time = time * 1000
    with torch.no_grad():
        found = predict(pipeline, denoiser, noisy, time, live_texts(pipeline, [prompt]))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_pipeline_of_another_kind_is_refused() -> None:
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    with pytest.raises(CannotRun, match=r"not trained here.*UNet2DModel"):
        denoiser_name(DDPMPipeline(unet, DDIMScheduler()))


def test_a_model_of_inpainting_is_refused(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.configuration_utils import FrozenDict

    monkeypatch.setattr(pipeline.unet, "_internal_dict", FrozenDict({**pipeline.unet.config, "in_channels": 17}))
    with pytest.raises(CannotRun, match="inpainting"):
        denoiser_name(pipeline)
