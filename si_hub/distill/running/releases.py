"""What single files do not say: the configurations of the base models whose files are whole pipelines.

Values are those of the releases' own ``config.json`` files, where they differ from their classes' defaults; sizes are
the base's blueprints, which its tables are made of. What is not listed here needs a pipeline folder beside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from si_hub.architectures.bases import BY_NAME, sd15, sd21, sdxl, segmind
from si_hub.architectures.bases.contract import Blueprint

#: CLIP of OpenAI; OpenCLIP's models compute with another activation, and fill short prompts up with another token.
_CLIP = {"hidden_act": "quick_gelu", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_OPEN_CLIP = {**_CLIP, "hidden_act": "gelu"}
_END, _BANG = "<|endoftext|>", "!"
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
_PNDM = ("PNDMScheduler", {**_NOISE, "skip_prk_steps": True, "set_alpha_to_one": False})
_DDIM = ("DDIMScheduler", {**_NOISE, "clip_sample": False, "set_alpha_to_one": False})
_EULER = ("EulerDiscreteScheduler", {**_NOISE, "timestep_spacing": "leading"})
#: Files that predict v with noise to the end say so by a tensor; what their schedules then are.
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
_SDXL_PIPELINE = {"force_zeros_for_empty_prompt": True, "add_watermarker": False}


@dataclass(frozen=True, slots=True)
class Release:
    """A base model's pipeline, but for its weights.

    Attributes:
        pipeline: diffusers' class.
        models: components by name, autoencoder included.
        tokenizers: by name, with the token that fills short prompts up.
        scheduler: its class and configuration.
        scheduler_v: the same for files that predict v.
        sides: of the latents, in files that predict noise, and in those that predict v.
        asks: whether releases differ in what they predict, so that a file that does not say it is asked.
        options: of the pipeline besides.
    """

    pipeline: str
    models: Mapping[str, Blueprint]
    tokenizers: Mapping[str, str]
    scheduler: tuple[str, Mapping[str, Any]]
    scheduler_v: tuple[str, Mapping[str, Any]]
    sides: tuple[int, int]
    asks: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def schedule(self, prediction: str, markers: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """The scheduler's class and configuration.

        Args:
            prediction: ``epsilon`` or ``v_prediction``.
            markers: names of a file's tensors that say something of its schedule.
        """
        name, config = self.scheduler_v if prediction == "v_prediction" else self.scheduler
        zero = _ZERO_SNR if "ztsnr" in (markers or ()) and name != "PNDMScheduler" else {}
        return name, {**config, **zero, "prediction_type": prediction}


def _models(base: str, encoders: Mapping[str, Mapping[str, Any]], vae: Mapping[str, Any]) -> dict[str, Blueprint]:
    """A base's blueprints with what its tables need not know, and its autoencoder."""
    found = {
        name: Blueprint(part.table, part.library, part.class_name, {**part.config, **encoders.get(name, {})})
        for name, part in BY_NAME[base].components.items()
    }
    return {**found, "vae": Blueprint("", "diffusers", "AutoencoderKL", {**_VAE, **vae})}


_XL_ENCODERS = {"text_encoder": {**_CLIP, "projection_dim": 768}, "text_encoder_2": _OPEN_CLIP}


def _xl(base: str) -> Release:
    return Release(
        "StableDiffusionXLPipeline",
        _models(base, _XL_ENCODERS, {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}),
        {"tokenizer": _END, "tokenizer_2": _BANG}, _EULER, _EULER, (128, 128), options=_SDXL_PIPELINE,
    )  # fmt: skip


#: By the name of the base model.
RELEASES: dict[str, Release] = {
    sd15.BASE.name: Release(
        "StableDiffusionPipeline",
        _models(sd15.BASE.name, {"text_encoder": {**_CLIP, "projection_dim": 768}}, {"sample_size": 512}),
        {"tokenizer": _END}, _PNDM, _DDIM, (64, 64),
    ),
    sd21.BASE.name: Release(
        "StableDiffusionPipeline",
        _models(sd21.BASE.name, {"text_encoder": _OPEN_CLIP}, {"sample_size": 768}),
        {"tokenizer": _BANG}, _PNDM, _DDIM, (64, 96), asks=True,
    ),
    **{base: _xl(base) for base in (sdxl.BASE.name, segmind.SSD_1B.name, segmind.VEGA.name)},
}  # fmt: skip
