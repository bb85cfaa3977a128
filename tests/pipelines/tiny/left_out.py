"""Pipeline classes that are not built, each with why; and the tables of the documentation."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import diffusers

from tests.pipelines.tiny.table import classes

#: A package of diffusers' pipelines → why none of its classes is built.
WHOLE = {
    "ace_step": "sound or music", "audioldm2": "sound or music", "longcat_audio_dit": "sound or music",
    "stable_audio": "sound or music", "stable_audio_3": "sound or music",
    "diffusion_gemma": "text", "llada2": "text", "rfd4_proteina": "proteins", "shap_e": "three dimensions",
    "marigold": "depth and normals of a picture",
    "deprecated": "diffusers has retired it",
    "ddim": "without text: a UNet alone, as `StableDiffusionPipeline` has one",
    "ddpm": "without text: a UNet alone, as `StableDiffusionPipeline` has one",
    "consistency_models": "without text: a UNet alone, as `StableDiffusionPipeline` has one",
    "stable_video_diffusion": "from a picture alone, without text",
    "cosmos": "needs torchvision, which the suite does without",
    "deepfloyd_if": "pixels in stages; their UNet is `UNet2DConditionModel`, as Stable Diffusion's",
    "chronoedit": "changes a picture or video", "lucy": "changes a picture or video",
    "visualcloze": "changes a picture or video", "joyimage": "changes a picture or video",
    "controlnet_hunyuandit": "a control beside the denoiser of `HunyuanDiTPipeline`",
    "controlnet_sd3": "a control beside the denoiser of `StableDiffusion3Pipeline`",
    "t2i_adapter": "a control beside the denoiser of `StableDiffusionPipeline`",
}  # fmt: skip
#: Words of a class's name → why a class of a family that is built is not.
VARIANTS = {
    "Upscale": "makes a picture or latents larger",
    "Upsample": "makes a picture or latents larger",
    "SR": "makes a picture or latents larger",
    "Prior": "makes embeddings, not pictures",
    "Combined": "two of its family's pipelines, one after the other",
    "VideoDiffusionDecode": "decodes",
}
_SAME = "another class of its package in diffusers is built"
_UNTRIED = "not built yet"


def list_left_out() -> dict[str, str]:
    """Every pipeline class that diffusers exports and the tests do not build, and why."""
    built = {name: _package(name) for name in classes()}
    found = {}
    for name in _exported():
        if name in built:
            continue
        package = _package(name)
        kin = package in built.values()
        said = next((why for word, why in VARIANTS.items() if word in name), None)
        found[name] = WHOLE.get(package) or said or (_SAME if kin else _UNTRIED)
    return found


def _exported() -> Iterator[str]:
    for name in sorted(dir(diffusers)):
        member = getattr(diffusers, name)
        if (
            inspect.isclass(member)
            and issubclass(member, diffusers.DiffusionPipeline)
            and member is not diffusers.DiffusionPipeline
            and name == member.__name__
        ):
            yield name


def _package(name: str) -> str:
    return str(getattr(diffusers, name).__module__.split(".")[2])


def render() -> str:
    """The tables, as the documentation has them."""
    left = list_left_out()
    built = ", ".join(f"`{name}`" for name in classes())
    reasons: dict[str, list[str]] = {}
    for name, why in left.items():
        reasons.setdefault(why, []).append(name)
    rows = [f"| {why} | {', '.join(f'`{name}`' for name in names)} |" for why, names in sorted(reasons.items())]
    head = [f"Built and tested, {len(classes())} classes: {built}.", ""]
    return "\n".join([*head, f"Left out, {len(left)} classes:", "", "| why | classes |", "|---|---|", *rows])
