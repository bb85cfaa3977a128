"""The base has every kind of module that the real ones have."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

from examples.miniature import base


def test_the_unet_has_every_kind_of_module_that_stable_diffusion_has() -> None:
    names = {name for name, _ in UNet2DConditionModel(**base.UNET).named_modules()}
    ends = (
        "attn1.to_q", "attn2.to_k", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "time_emb_proj",
        "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out", "time_embedding.linear_1",
    )  # fmt: skip
    assert [end for end in ends if not any(name.endswith(end) for name in names)] == []
