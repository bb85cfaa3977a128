"""Pairs that cannot be right, found from headers and a few numbers before any work is done."""

from __future__ import annotations

from pathlib import Path

from si_hub.architectures.model import Model as Modules
from si_hub.distill.pair.change import Change, modules_of_both
from si_hub.distill.pair.checkpoint import check_prediction, check_same
from si_hub.distill.pair.kinship import TELLING, check_kin, identical, same_sample
from si_hub.distill.pair.model import OPTIONAL, ModelOnDisk
from si_hub.distill.pair.weights import Weight, same_numbers, widen
from si_hub.errors import WrongPair
from si_hub.report.text import reasons
from si_hub.words import call, switch

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


def check_headers(base: ModelOnDisk, tuned: ModelOnDisk, *, trust_order: bool) -> None:
    """Raise WrongPair for what names, shapes, paths and metadata show."""
    if base.denoiser not in tuned.components:
        raise WrongPair("holds no model that removes the noise", file=tuned.path, expected=base.denoiser,
                        found=", ".join(tuned.components))  # fmt: skip
    for component, model in tuned.architecture.components.items():
        if component not in base.components:
            raise WrongPair("has a component that the base lacks", file=tuned.path, key=component,
                            expected=", ".join(base.components), hint="Name the whole base model.")  # fmt: skip
        expected = base.architecture.components[component]
        check_same(tuned.path, _required_modules(model), _required_modules(expected), base)
    check_prediction(tuned.path, tuned.prediction_type, base)
    if not trust_order and (sign := _sign(base, tuned)):
        raise wrong_order(sign, tuned.path)


def check_paths(base: str | Path, tuned: str | Path, *, trust_order: bool) -> None:
    """Raise WrongPair for what the two paths show before anything is opened: the same model, or the wrong order."""
    one, other = Path(base), Path(tuned)
    if str(base) == str(tuned) or (one.exists() and other.exists() and one.samefile(other)):
        raise identical(other)
    if not trust_order and one.is_file() and other.is_dir():
        raise wrong_order("the first is a single-file checkpoint, the second a whole pipeline folder", other)


def wrong_order(sign: str, path: Path) -> WrongPair:
    """The error for a pair in the wrong order, and what shows it."""
    return WrongPair(
        f"base and tuned model look swapped: {sign}", file=path,
        hint=f"The base comes first: {call('distill', 'BASE', 'TUNED')}. "
        f"If the order is right, say {switch('trust_order')}.",
    )  # fmt: skip


def _sign(base: ModelOnDisk, tuned: ModelOnDisk) -> str | None:
    """Why the two seem to be in the wrong order, from what they say of themselves."""
    traces = [key for key in _TRACES if key in base.metadata and key not in tuned.metadata]
    if traces:
        return f"the first has a trainer's or merger's metadata ({traces[0]}), the second has none"
    if tuned.repo_id in _BASES and base.repo_id not in _BASES:
        return f"the second is the base model {tuned.repo_id}"
    return None


def check_samples(base: ModelOnDisk, tuned: ModelOnDisk) -> set[tuple[str, str]]:
    """(component, module) of the weights that differ in a few sampled numbers.

    Raises:
        WrongPair: the samples are those of unrelated models.
    """
    differing: set[tuple[str, str]] = set()
    telling: list[tuple[Weight, Weight]] = []
    for change in modules_of_both(base, tuned):
        assert change.weight is not None
        old, new = change.weight
        if not same_sample(old, new):
            differing.add(change.key)
        if change.component == base.denoiser and change.kind in {"linear", "conv"} and old.count >= TELLING:
            telling.append((old, new))
    check_kin(tuned.path, telling)
    return differing


def _required_modules(model: Modules) -> Modules:
    """The modules that every release has."""
    return Modules(model.class_name, {path: m for path, m in model.modules.items() if path not in OPTIONAL})


def notes(base: ModelOnDisk, tuned: ModelOnDisk, changes: list[Change]) -> list[str]:
    """What the user should know of a pair that is right."""
    missing = [name for name in base.components if name not in tuned.components]
    found = [f"{name} is not in {tuned.name}: taken as unchanged" for name in missing]
    found += [line for line in (_vae_note(base, tuned),) if line]
    if tuned.prediction_type is None and base.prediction_type:
        found.append(f"{tuned.name} does not say what it predicts: taken as {base.prediction_type}, as the base")
    found += [f"left out of {tuned.name}: {line}" for line in reasons(tuned.ignored)]
    return found


def _vae_note(base: ModelOnDisk, tuned: ModelOnDisk) -> str | None:
    """How far the autoencoders differ, which no adapter carries."""
    if not base.vae or not tuned.vae:
        return None
    if {name: weight.shape for name, weight in base.vae.items()} != {n: w.shape for n, w in tuned.vae.items()}:
        return "the autoencoder is of another kind than the base's, and is not carried: take it from the tuned model"
    error, norm = 0.0, 0.0
    for name, old in base.vae.items():
        if not same_numbers(old.torch(), tuned.vae[name].torch()):
            error += float((widen(tuned.vae[name]) - widen(old)).square().sum())
        norm += float(widen(old).square().sum())
    if not error:
        return None
    return (
        f"the autoencoder differs from the base's by {(error / norm) ** 0.5:.2%} and is not carried: "
        "take it from the tuned model for its exact colours"
    )
