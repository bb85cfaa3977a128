"""What is wanted of a training from pictures: read from keywords once, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from si_hub.adapter import TRANSFORMS
from si_hub.errors import UsageError
from si_hub.training.loop import Recipe
from si_hub.training.optimizers import check_optimizer
from si_hub.words import label

#: Ways to adapt a model: ours, and PEFT's by the same loop.
TRAINED_METHODS = ("styleinject", "lora", "dora")
ROUTER_KINDS = ("learned", "fixed")
#: How ranks are dealt out: where the pictures pull at the base most, or the same one everywhere.
RANKS = ("fitted", "even")
PRECISION_NAMES = ("no", "fp16", "bf16")
SPREADS = ("uniform", "middle")
TRACKERS = ("tensorboard", "wandb")
#: What is trained by a word: attention alone, every linear layer of the transformer blocks, convolutions as well.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_LINEAR = (
    *_ATTENTION, "proj_in", "proj_out", "proj_mlp", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj",
    "ff_context.net.2",
)  # fmt: skip
LAYERS: dict[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "linear": _LINEAR,
    "all": (*_LINEAR, "conv1", "conv2", "conv_shortcut"),
}
#: Modules of text encoders that are trained with ``text_encoder``.
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
#: The least that each setting may be that is a whole number, and the most that any may.
_LEAST = {
    "rank": 1, "branches": 1, "steps": 1, "batch": 1, "part": 1, "save_every": 1, "measured": 1, "surveyed": 1,
    "preserve": 0, "every": 0, "resolution": 8, "seed": 0,
}  # fmt: skip
_MOST = 2**53
#: Settings that change how the work is done, not what comes out.
_UNTOLD = ("part", "save_every", "checkpointing", "device", "trackers")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Everything that a training is but its base and pictures.

    Attributes:
        method: one of `TRAINED_METHODS`.
        rank, alpha: of every pair; alpha / rank is the scale, None a scale of one. Where ranks are fitted, all pairs
            have that scale, and together as many numbers as this rank has on all ``linear`` layers.
        ranks: one of `RANKS`; None is fitted for StyleInject and even for PEFT's methods.
        surveyed: noisy pictures that ranks are fitted with, before anything is trained.
        branches, transform, router: of StyleInject, see `si_hub.StyleInjectConfig`.
        layers: a word of `LAYERS`, None for all of them where ranks are fitted, else the linear ones; ``targets``
            names modules by the ends of their paths instead.
        text_encoder: whether CLIP text encoders are trained too.
        steps, batch: optimiser steps, at most so many where the user says none; pictures in each, on all processes.
        part: pictures at once; gradients of several parts are added up.
        rate: peak learning rate; None chooses one by the width of the layers.
        average: decay of the moving average that is kept; None chooses by the steps, 0 takes the last step's numbers.
        optimizer, decay, clip: its name, weight decay, largest norm of a gradient.
        resolution: side of a square picture; None for the pipeline's own.
        buckets: whether pictures keep their shape, about.
        trigger: a word that every caption gets, and that calls the style.
        dropout: share of captions that are left out, for guidance.
        spread: of timesteps, one of `SPREADS`; None for what suits the objective.
        min_snr, noise_offset: γ of the min-SNR weights; strength of a noise that is equal all over a picture.
        preserve, preserve_weight: pictures of the base that the adapter is to leave alone, and how much that counts.
        every: steps between two drawings of the prompts; 0 for the end alone.
        measured: noisy pictures that the error is measured with.
        seed: of everything random.
        precision, checkpointing, device: arithmetic; activations computed twice; what to compute on.
        save_every: steps between two checkpoints of unfinished work.
        trackers: names of `TRACKERS`.
    """

    method: str = "styleinject"
    rank: int = 8
    alpha: float | None = None
    ranks: str | None = None
    surveyed: int = 256
    branches: int = 1
    transform: str = "add"
    router: str = "learned"
    layers: str | None = None
    targets: tuple[str, ...] = ()
    text_encoder: bool = False
    steps: int = 500
    batch: int = 8
    part: int = 8
    rate: float | None = None
    average: float | None = None
    optimizer: str = "adamw"
    decay: float = 0.0
    clip: float = 1.0
    resolution: int | None = None
    buckets: bool = True
    trigger: str | None = None
    dropout: float = 0.1
    spread: str | None = None
    min_snr: float | None = None
    noise_offset: float = 0.0
    preserve: int = 0
    preserve_weight: float = 1.0
    every: int = 0
    measured: int = 32
    seed: int = 0
    precision: str = "no"
    checkpointing: bool = False
    device: str | None = None
    save_every: int = 50
    trackers: tuple[str, ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> TrainSettings:
        """Settings from keywords; ``None`` is as if it were not said.

        Raises:
            UsageError: a keyword that there is not, or a value that makes no sense.
        """
        known = {one.name for one in fields(cls)}
        if unknown := sorted(told.keys() - known):
            raise UsageError("no such setting of a training", key=unknown[0], expected=", ".join(sorted(known)))
        given = {name: value for name, value in told.items() if value is not None}
        for name in ("targets", "trackers"):
            if name in given:
                given[name] = _words(name, given[name])
        for name, value in given.items():
            if name in _LEAST and isinstance(value, float) and value.is_integer():
                given[name] = int(value)
        found = cls(**given)
        found._check(given)
        return found

    def _check(self, given: Mapping[str, Any]) -> None:
        choices: dict[str, Sequence[str]] = {
            "method": TRAINED_METHODS, "transform": TRANSFORMS, "router": ROUTER_KINDS, "precision": PRECISION_NAMES,
        }  # fmt: skip
        chosen = {"spread": SPREADS, "ranks": RANKS, "layers": tuple(LAYERS)}
        choices |= {name: allowed for name, allowed in chosen.items() if getattr(self, name) is not None}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError("unknown value", key=label(name), expected=", ".join(allowed),
                                 found=getattr(self, name))  # fmt: skip
        for name in self.trackers:
            if name not in TRACKERS:
                raise UsageError("no such tracker", key=label("tracker", python="trackers"),
                                 expected=", ".join(TRACKERS), found=name)  # fmt: skip
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None:
                _check_whole(name, value, least)
        for name in ("text_encoder", "buckets", "checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError("is true or false", key=label(name), found=getattr(self, name))
        for name in ("trigger", "device"):
            if (value := getattr(self, name)) is not None and not (isinstance(value, str) and value.strip()):
                raise UsageError("is a word", key=label(name), found=value)
        if self.layers is not None and self.targets:
            raise UsageError("says the same as targets", key=label("layers"), hint="Leave one of them out.")
        for name in ("alpha", "rate", "min_snr", "clip"):
            _check_number(name, getattr(self, name), above=True)
        for name in ("decay", "noise_offset", "preserve_weight"):
            _check_number(name, getattr(self, name), above=False)
        for name in ("average", "dropout"):
            value = getattr(self, name)
            if value is not None and not (_is_real(value) and 0 <= value < 1):
                raise UsageError("is a share from 0 to below 1", key=label(name), found=value)
        if self.method != "styleinject":
            for name in ("branches", "transform", "router"):
                if name in given and getattr(self, name) != getattr(type(self)(), name):
                    raise UsageError(
                        f"the method {self.method} has no such thing", key=label(name), hint="Leave it out."
                    )
        check_optimizer(self.optimizer)

    @property
    def fitted(self) -> bool:
        """Whether a survey deals out the ranks."""
        return self.ranks == "fitted" or (self.ranks is None and self.method == "styleinject")

    @property
    def target_modules(self) -> list[str]:
        """Ends of the paths of the denoiser's modules that are adapted."""
        return list(self.targets or LAYERS[self.layers or ("all" if self.fitted else "linear")])

    @property
    def counted_modules(self) -> list[str]:
        """Ends of the paths of the modules whose pairs of one rank are the budget of fitted ranks."""
        return list(self.targets or LAYERS[self.layers or "linear"])

    def recipe(self, rate: float) -> Recipe:
        """How the loop is to train, at a learning rate."""
        return Recipe(
            self.steps, self.batch, self.part, rate, self.average, self.clip, max(1, self.steps // 4), self.save_every,
            relative=False, decay=self.decay, optimizer=self.optimizer,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """Everything that unfinished work depends on, as JSON data."""
        return {name: value for name, value in asdict(self).items() if name not in ("save_every", "trackers")}

    def document(self) -> dict[str, Any]:
        """The settings that the result depends on, as JSON data."""
        found = {name: value for name, value in asdict(self).items() if name not in _UNTOLD and value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _words(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """Words that a user gave as a list, or in one text with commas."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise UsageError("is names, or one text with commas between them", key=label(name), found=value)
    found = tuple(part.strip() for one in given for part in one.split(",") if part.strip())
    if given and not found:
        raise UsageError("names nothing", key=label(name), hint="Leave it out.")
    return found


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST:
        raise UsageError(f"is a whole number, {least} or more", key=label(name), found=value)


def _check_number(name: str, value: Any, *, above: bool) -> None:
    if value is not None and (not _is_real(value) or not (value > 0 or (value == 0 and not above)) or value > 1e9):
        raise UsageError(f"is a number {'above 0' if above else '0 or above'}", key=label(name), found=value)


def shown_folder(folder: str | Path) -> str:
    """A folder's own name, for texts that others may read."""
    return Path(folder).resolve().name
