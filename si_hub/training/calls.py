"""How a pipeline's denoiser is called in training: one way for each kind of denoiser that is known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from si_hub.errors import CannotRun

#: Guidance that distilled guidance is trained at: none (Flux of black-forest-labs takes it as an argument).
_GUIDANCE = 1.0

Call = Callable[[Any, Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]


def denoiser_name(pipeline: Any) -> str:
    """The component that predicts: ``unet`` or ``transformer``.

    Raises:
        CannotRun: it has neither, or one whose call is not known here.
    """
    name = next((name for name in ("unet", "transformer") if getattr(pipeline, name, None) is not None), None)
    kind = type(pipeline).__name__ if name is None else type(getattr(pipeline, name)).__name__
    if name is None or kind not in CALLS or getattr(pipeline, "vae", None) is None:
        raise CannotRun(
            "is a pipeline that is not trained here", found=kind, expected=", ".join(CALLS),
            hint="docs/TRAIN.md shows a training loop of one's own.",
        )  # fmt: skip
    config = getattr(pipeline, name).config
    if kind.startswith("UNet") and config.in_channels != pipeline.vae.config.latent_channels:
        raise CannotRun("is made for more than text and noise, such as inpainting", key="in_channels",
                        expected=pipeline.vae.config.latent_channels, found=config.in_channels)  # fmt: skip
    return name


def predict(pipeline: Any, denoiser: Any, noisy: Tensor, times: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    """What a denoiser predicts, in the shape of the latents.

    Args:
        pipeline: whose it is.
        denoiser: with whatever is loaded into it.
        noisy: ``[count, channels, height, width]``.
        times: ``[count]``, 0 (picture) to the schedule's last timestep.
        text: its text arguments, one row a sample, as `si_hub.training.encoding.encode_prompts` has them.
    """
    dtype = next(denoiser.parameters()).dtype
    text = {name: value.to(noisy.device, dtype) for name, value in text.items()}
    return CALLS[type(denoiser).__name__](pipeline, denoiser, noisy.to(dtype), times, text).float()


def _unet(pipeline: Any, denoiser: Any, noisy: Tensor, times: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    more: dict[str, Any] = {}
    if denoiser.config.addition_embed_type == "text_time":
        height, width = (side * pipeline.vae_scale_factor for side in noisy.shape[2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=noisy.device, dtype=noisy.dtype)
        more["added_cond_kwargs"] = {"text_embeds": text["pooled"], "time_ids": sizes.expand(len(noisy), 6)}
    found: Tensor = denoiser(noisy, times.long(), text["encoder_hidden_states"], **more, return_dict=False)[0]
    return found


def _sd3(pipeline: Any, denoiser: Any, noisy: Tensor, times: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    found: Tensor = denoiser(
        hidden_states=noisy, timestep=times, encoder_hidden_states=text["encoder_hidden_states"],
        pooled_projections=text["pooled"], return_dict=False,
    )[0]  # fmt: skip
    return found


def _flux(pipeline: Any, denoiser: Any, noisy: Tensor, times: Tensor, text: Mapping[str, Tensor]) -> Tensor:
    count, channels, height, width = noisy.shape
    states = text["encoder_hidden_states"]
    places = pipeline._prepare_latent_image_ids(count, height // 2, width // 2, noisy.device, noisy.dtype)
    guidance = torch.full((count,), _GUIDANCE, device=noisy.device) if denoiser.config.guidance_embeds else None
    found = denoiser(
        hidden_states=pipeline._pack_latents(noisy, count, channels, height, width), guidance=guidance,
        timestep=times.to(noisy.dtype) / int(pipeline.scheduler.config.num_train_timesteps),
        pooled_projections=text["pooled"], encoder_hidden_states=states,
        txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device, dtype=noisy.dtype), img_ids=places,
        return_dict=False,
    )[0]  # fmt: skip
    scale = pipeline.vae_scale_factor
    unpacked: Tensor = pipeline._unpack_latents(found, height * scale, width * scale, scale)
    return unpacked


#: Class of a denoiser → how it is called.
CALLS: dict[str, Call] = {
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}
