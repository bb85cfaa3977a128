"""Pairs that cannot be right, found from headers and a few numbers before any work is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.architectures.model import Model as Modules
from si_hub.distill.models import Model
from si_hub.distill.pairs import Change
from si_hub.distill.single import check_same
from si_hub.distill.weights import Weight, same, widened
from si_hub.errors import WrongPair
from si_hub.report.text import reasons

if TYPE_CHECKING:
    import torch

#: Metadata that trainers and merging tools leave in what they make, and releases of base models do not have.
_TRACES = ("ss_base_model_version", "ss_training_started_at", "ss_sd_model_name", "sd_merge_models", "sd_merge_recipe",
           "modelspec.merged_from")  # fmt: skip
#: Repositories of base models; a fine-tune is never one of them.
_BASES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5", "CompVis/stable-diffusion-v1-4",
    "stabilityai/stable-diffusion-2", "stabilityai/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1-base", "stabilityai/stable-diffusion-xl-base-1.0",
    "stabilityai/stable-diffusion-3-medium-diffusers", "stabilityai/stable-diffusion-3.5-medium",
    "stabilityai/stable-diffusion-3.5-large", "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell",
}  # fmt: skip
#: Numbers compared at each of three places of a weight.
_SAMPLE = 256
#: Weights sampled for kinship need this many numbers: small ones say little.
_TELLING = 2048
#: Cosine between the weights of a model and its descendants stays far above this; unrelated models are near 0.
_KIN = 0.5


def check_headers(base: Model, tuned: Model, *, trust_order: bool) -> None:
    """Raise WrongPair for what names, shapes, paths and metadata show."""
    if base.path.exists() and base.path.samefile(tuned.path):
        raise identical(tuned)
    if base.denoiser not in tuned.components:
        raise WrongPair("holds no model that removes the noise", file=tuned.path, expected=base.denoiser,
                        found=", ".join(tuned.components))  # fmt: skip
    for component, model in tuned.architecture.components.items():
        if component not in base.components:
            raise WrongPair("has a component that the base lacks", file=tuned.path, key=component,
                            expected=", ".join(base.components), hint="Name the whole base model.")  # fmt: skip
        expected = base.architecture.components[component]
        check_same(tuned.path, _without_projection(model), _without_projection(expected), base)
    if base.prediction_type and tuned.prediction_type and base.prediction_type != tuned.prediction_type:
        raise WrongPair(
            "predicts something else than the base", file=tuned.path, key="prediction_type",
            expected=f"{base.prediction_type}, as in {base.path}", found=tuned.prediction_type,
            hint="Name a base model that predicts the same.",
        )  # fmt: skip
    if not trust_order and (sign := _swapped(base, tuned)):
        raise WrongPair(
            f"base and tuned model look swapped: {sign}", file=tuned.path,
            hint="The base comes first: si-hub distill BASE TUNED. If the order is right, say --trust-order.",
        )  # fmt: skip


def _swapped(base: Model, tuned: Model) -> str | None:
    """Why the two seem to be in the wrong order."""
    traces = [key for key in _TRACES if key in base.metadata and key not in tuned.metadata]
    if traces:
        return f"the first has a trainer's or merger's metadata ({traces[0]}), the second has none"
    if tuned.repo_id in _BASES and base.repo_id not in _BASES:
        return f"the second is the base model {tuned.repo_id}"
    if base.layout == "file" and tuned.layout == "folder":
        return "the first is a single-file checkpoint, the second a whole pipeline folder"
    return None


def identical(tuned: Model) -> WrongPair:
    """The error for two models that hold the same numbers."""
    return WrongPair(
        "base and tuned model are the same", file=tuned.path, hint="Name a model that was tuned from the base."
    )


def check_samples(base: Model, tuned: Model) -> set[tuple[str, str]]:
    """(component, module) of the weights that differ in a few sampled numbers.

    Raises:
        WrongPair: the samples are those of unrelated models.
    """
    import torch

    differing: set[tuple[str, str]] = set()
    cosines: list[float] = []
    for component, model in tuned.architecture.components.items():
        for path, module in model.modules.items():
            name = path if module.kind == "parameter" else f"{path}.weight"
            old, new = base.components[component][name], tuned.components[component][name]
            a, b = _sample(old), _sample(new)
            if not same(a, b):
                differing.add((component, path))
            if component == base.denoiser and module.kind in {"linear", "conv"} and old.count >= _TELLING:
                x, y = a.to(torch.float32), b.to(torch.float32)
                norms = float(x.norm() * y.norm())
                cosines.append(float(x @ y) / norms if norms else 1.0)
    kinship = sorted(cosines)[len(cosines) // 2] if cosines else 1.0
    if kinship < _KIN:
        raise WrongPair(
            "is not tuned from this base: its weights have nothing to do with the base's", file=tuned.path,
            expected=f"a cosine of {_KIN} or more, as a model and its descendants have",
            found=f"{kinship:.2f} in the median layer", hint="Name the base model it was tuned from.",
        )  # fmt: skip
    return differing


def _sample(weight: Weight) -> torch.Tensor:
    """A few numbers from the start, the middle and the end; of a memory-mapped weight nothing else is read."""
    import torch

    flat = weight.torch().reshape(-1)
    starts = {max(0, min(start, weight.count - _SAMPLE)) for start in (0, weight.count // 2, weight.count)}
    return torch.cat([flat[start : start + _SAMPLE] for start in sorted(starts)])


def _without_projection(model: Modules) -> Modules:
    """A text encoder's modules but for the projection, which not every release has."""
    return Modules(model.class_name, {path: m for path, m in model.modules.items() if path != "text_projection"})


def notes(base: Model, tuned: Model, changes: list[Change]) -> list[str]:
    """What the user should know of a pair that is right."""
    missing = [name for name in base.components if name not in tuned.components]
    found = [f"{name} is not in {tuned.path.name}: taken as unchanged" for name in missing]
    found += [line for line in (_vae_note(base, tuned),) if line]
    if tuned.prediction_type is None and base.prediction_type:
        found.append(f"{tuned.path.name} does not say what it predicts: taken as {base.prediction_type}, as the base")
    found += [f"left out of {tuned.path.name}: {line}" for line in reasons(tuned.ignored)]
    return found


def _vae_note(base: Model, tuned: Model) -> str | None:
    """How far the autoencoders differ, which no adapter carries."""
    if not base.vae or not tuned.vae:
        return None
    if {name: weight.shape for name, weight in base.vae.items()} != {n: w.shape for n, w in tuned.vae.items()}:
        return "the autoencoder is of another kind than the base's, and is not carried: take it from the tuned model"
    error, norm = 0.0, 0.0
    for name, old in base.vae.items():
        if not same(old.torch(), tuned.vae[name].torch()):
            error += float((widened(tuned.vae[name]) - widened(old)).square().sum())
        norm += float(widened(old).square().sum())
    if not error:
        return None
    return (
        f"the autoencoder differs from the base's by {(error / norm) ** 0.5:.2%} and is not carried: "
        "take it from the tuned model for its exact colours"
    )
