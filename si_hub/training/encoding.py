"""Pictures and prompts as a pipeline's denoiser takes them: latents, text states."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from si_hub.training.gallery import as_seen, open_picture

#: What ``encode_prompt`` returns, by how many things it returns: place of the states and of the pooled vector.
TEXT: dict[int, tuple[int, int | None]] = {2: (0, None), 3: (0, 1), 4: (0, 2)}
#: Where a denoiser takes the pooled vector, one of these.
POOLED = ("pooled_projections", "text_embeds")
#: Where it takes which of the text's tokens are there, one of these.
MASKS = ("encoder_hidden_states_mask", "encoder_attention_mask")


def encode_prompts(
    pipeline: Any, prompts: Sequence[str | None], device: torch.device, length: int | None = None
) -> dict[str, Tensor] | None:
    """The denoiser's text arguments, one row a prompt; ``None`` where ``encode_prompt`` returns what is not known here.

    The null prompt is the empty one, or zeros where the pipeline says so, as diffusers has it. ``mask`` is there where
    the pipeline tells which tokens count; the states of a pipeline that cuts every prompt to its own length are a list.

    Args:
        pipeline: whose text encoders; gradients flow into them.
        prompts: ``None`` is the null prompt.
        device: to compute on.
        length: ``max_sequence_length``, of pipelines that take one.
    """
    known = {
        "prompt": [prompt or "" for prompt in prompts], "prompt_2": None, "prompt_3": None, "device": device,
        "num_images_per_prompt": 1, "do_classifier_free_guidance": False, "max_sequence_length": length,
    }  # fmt: skip
    names = inspect.signature(pipeline.encode_prompt).parameters
    found = pipeline.encode_prompt(**{name: value for name, value in known.items() if name in names})
    if not isinstance(found, tuple) or len(found) not in TEXT:
        return None
    place, pooled = TEXT[len(found)]
    if _is_mask(found[1]):
        return {"encoder_hidden_states": found[0], "mask": found[1]}
    text = {"encoder_hidden_states": found[place]} | ({} if pooled is None else {"pooled": found[pooled]})
    if getattr(pipeline.config, "force_zeros_for_empty_prompt", False):
        shown = torch.tensor([prompt is not None for prompt in prompts], device=device)
        text = {name: value * shown.view(-1, *[1] * (value.ndim - 1)) for name, value in text.items()}
    return text


def _is_mask(value: Any) -> bool:
    """Whether a second thing that ``encode_prompt`` returns says which tokens there are, ``[prompts, tokens]``."""
    return isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point()


def text_lengths(pipeline: Any) -> dict[str, int]:
    """``max_sequence_length`` for pipelines that take it: their own, or what the tokenizer can do if that is less."""
    given = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    if given is None:
        return {}
    lasts = (getattr(pipeline, f"tokenizer{tail}", None) for tail in ("_3", "_2", ""))
    limit = next(tokenizer.model_max_length for tokenizer in lasts if tokenizer is not None)
    return {"max_sequence_length": min(int(given.default), int(limit))}


@torch.no_grad()
def encode_picture(pipeline: Any, file: Path, height: int, width: int) -> Tensor:
    """Scaled latents ``[1, channels, ...]`` of a picture, turned upright, cut to the middle and resized."""
    from PIL import ImageOps

    vae = pipeline.vae
    with open_picture(file) as picture:
        fitted = ImageOps.fit(as_seen(picture), (width, height))
    pixels = pipeline.image_processor.preprocess(fitted, height, width).to(vae.device, vae.dtype)
    mean: Tensor = vae.encode(pixels).latent_dist.mean
    shifted = mean - (getattr(vae.config, "shift_factor", None) or 0.0)
    return (shifted * float(vae.config.scaling_factor)).float().cpu()
