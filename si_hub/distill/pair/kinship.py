"""What can be said of a single file beside its base before torch is imported: a stranger, or the base itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from si_hub.architectures.checkpoint import DENOISERS, whole_tensors
from si_hub.architectures.folder import frozen_path
from si_hub.architectures.model import BUFFERS
from si_hub.converters.numbers import as_float64
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.weights import Weight, same_numbers
from si_hub.errors import WrongPair
from si_hub.storage.sources import Comparison

#: Weights sampled for kinship have this many numbers: small ones say little.
TELLING = 2048
#: Cosine between the weights of a model and its descendants stays far above this; unrelated models are near 0.
KIN = 0.5
#: Where checkpoints keep CLIP and T5 text encoders under diffusers' own names.
_PLAIN_ENCODERS = (
    "cond_stage_model.transformer.", "conditioner.embedders.0.transformer.", "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.", "text_encoders.t5xxl.transformer.",
)  # fmt: skip
_VAE = ("first_stage_model.", "vae.")


def glance(path: Path, held: Mapping[str, Weight], base: ModelOnDisk | Mapping[str, Weight]) -> None:
    """Compare what lies in both files as it is.

    Args:
        path: the file, for messages.
        held: its weights by its own names.
        base: the base, or the weights of the base's own single file.

    Raises:
        WrongPair: the weights have nothing to do with the base's, or all are the same.
    """
    found = _sides(held, base) if isinstance(base, ModelOnDisk) else base.items()
    counted = {name for name in held if not name.startswith(_VAE) and not name.endswith(BUFFERS)}
    sides = {name: (side, held[name]) for name, side in found if name in counted and side.shape == held[name].shape}
    check_kin(path, (pair for name, pair in sides.items() if pair[0].count >= TELLING and len(pair[0].shape) > 1))
    rest = counted - sides.keys()
    if sides and not rest and all(old.dtype == new.dtype and same_sample(old, new) for old, new in sides.values()):
        with Comparison() as comparison:
            if all(same_bytes(*pair, comparison) for pair in sides.values()):
                raise identical(path)


def _sides(held: Mapping[str, Weight], base: ModelOnDisk) -> Iterable[tuple[str, Weight]]:
    """The base's weight for every tensor of the file that is one of them, unchanged but for its name."""
    for name, (component, parameter) in whole_tensors(base.architecture, held).items():
        if side := base.components[component].get(parameter):
            yield name, side
    encoders = [name for name in base.components if name not in DENOISERS]
    for name in held:
        prefix = next((prefix for prefix in _PLAIN_ENCODERS if name.startswith(prefix)), None)
        for component in encoders if prefix else ():
            class_name = base.architecture.components[component].class_name
            side = base.components[component].get(frozen_path(name.removeprefix(prefix or ""), class_name))
            if side and side.shape == held[name].shape:
                yield name, side
                break


def check_kin(path: Path, sides: Iterable[tuple[Weight, Weight]]) -> None:
    """Raise WrongPair where the median cosine of sampled weights is that of unrelated models."""
    cosines: list[float] = []
    for old, new in sides:
        a, b = as_float64(old.sample()), as_float64(new.sample())
        scale = float((a @ a) * (b @ b)) ** 0.5
        cosines.append(float(a @ b) / scale if scale else 1.0)
    kinship = sorted(cosines)[len(cosines) // 2] if cosines else 1.0
    if kinship < KIN:
        raise WrongPair(
            "is not tuned from this base: its weights have nothing to do with the base's", file=path,
            expected=f"a cosine of {KIN} or more, as a model and its descendants have",
            found=f"{kinship:.2f} in the median layer", hint="Name the base model it was tuned from.",
        )  # fmt: skip


def same_sample(old: Weight, new: Weight) -> bool:
    """Whether samples hold the same numbers, but for what the coarser of two dtypes cannot hold."""
    a, b = old.sample(), new.sample()
    return a.tobytes() == b.tobytes() if a.dtype == b.dtype else same_numbers(a.torch(), b.torch())


def same_bytes(old: Weight, new: Weight, comparison: Comparison) -> bool:
    """Whether two weights are stored alike, byte by byte."""
    if old.dtype != new.dtype or old.tensor is None or new.tensor is None:
        return False
    return comparison.same(old.tensor, new.tensor)


def identical(path: Path) -> WrongPair:
    """The error for two models that hold the same numbers."""
    return WrongPair(
        "base and tuned model are the same in all that adapters carry", file=path,
        hint="Name a model that was tuned from the base; one that has another autoencoder alone needs no adapter.",
    )  # fmt: skip
