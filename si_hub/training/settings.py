"""How an adapter is to be trained from pictures, and whether that makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from si_hub.adapter import TRANSFORMS
from si_hub.distill.request import BRANCH_ROUTERS, PRECISIONS
from si_hub.errors import UsageError
from si_hub.words import label

#: Which of a denoiser's layers are trained, from few to all.
LAYERS = ("attention", "linear", "all")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the result depends on, but for base and pictures.

    Attributes:
        rank: of every layer.
        branches: down matrices a layer has; with several folders of styles as many as there are.
        router: ``fixed``, the same mix for every picture, or ``learned``, chosen by what the layer sees.
        transform: the injection, one of `si_hub.adapter.TRANSFORMS`.
        layers: which are trained: attention's, every linear one of the blocks, or convolutions too.
        text_encoder: whether text encoders' layers are trained as well.
        steps, batch, part: optimiser steps, pictures a step, pictures computed at once.
        rate: peak learning rate, in units of the root mean square that each tensor starts with.
        average: decay of the moving average that is kept; none: half a tenth of the steps long.
        dropout: share of the pictures that are shown without their caption.
        min_snr: γ of the min-SNR weighting of noise-predicting models (arXiv 2303.09556); 0 for none.
        noise_offset: size of a shift of all of a picture's noise, by channel.
        resolution: side of the pictures; the pipeline's own by default.
        checkpointing: whether activations are computed twice to save memory.
        precision: of the arithmetic: ``no`` is float32.
        save_every: steps between two checkpoints.
        seed: of everything random.
    """

    rank: int = 8
    branches: int = 1
    router: str = "learned"
    transform: str = "add"
    layers: str = "linear"
    text_encoder: bool = False
    steps: int = 500
    batch: int = 8
    part: int = 8
    rate: float = 0.1
    average: float | None = None
    dropout: float = 0.1
    min_snr: float = 0.0
    noise_offset: float = 0.0
    resolution: int | None = None
    checkpointing: bool = False
    precision: str = "no"
    save_every: int = 100
    seed: int = 0

    def check(self) -> None:
        """Raise UsageError for a value that makes no sense, by its name."""
        choices = {"router": BRANCH_ROUTERS, "transform": TRANSFORMS, "layers": LAYERS, "precision": PRECISIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UsageError("is none of its choices", key=label(name), expected=", ".join(known),
                                 found=getattr(self, name))  # fmt: skip
        for name in ("rank", "branches", "steps", "batch", "part", "save_every"):
            if getattr(self, name) < 1:
                raise UsageError("is 1 or more", key=label(name), found=getattr(self, name))
        if not self.rate > 0:
            raise UsageError("is above 0", key=label("rate"), found=self.rate)
        if not 0 <= self.dropout < 1:
            raise UsageError("is a share", key=label("dropout"), expected="0 to 1", found=self.dropout)
        if self.resolution is not None and self.resolution < 8:
            raise UsageError("is a number of pixels", key=label("resolution"), expected="8 or more",
                             found=self.resolution)  # fmt: skip

    def said(self) -> dict[str, Any]:
        """What the document keeps of them: all but what says nothing of the result."""
        return {name: value for name, value in asdict(self).items() if name not in {"part", "save_every"}}

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """From keywords; those that are None have their default.

        Raises:
            UsageError: an unknown one, or a value that makes no sense.
        """
        known = {one.name: one for one in fields(cls)}
        if unknown := sorted(set(options) - known.keys()):
            raise UsageError("is no setting", key=label(unknown[0]), expected=", ".join(sorted(known)))
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            kinds = get_args(eval_kind(known[name].type)) or (eval_kind(known[name].type),)
            numbers = (int, float) if float in kinds else (int,)
            fits = isinstance(value, bool) == (bool in kinds) and (
                (str in kinds and isinstance(value, str)) or bool in kinds or isinstance(value, numbers)
            )
            if not fits:
                raise UsageError("has another kind of value", key=label(name), expected=str(known[name].type),
                                 found=repr(value))  # fmt: skip
        settings = cls(**given)
        settings.check()
        return settings


def eval_kind(written: Any) -> Any:
    """The type that a field's annotation, kept as text, says."""
    return {"int": int, "str": str, "bool": bool, "float": float, "float | None": float | None,
            "int | None": int | None}.get(str(written), written)  # fmt: skip
