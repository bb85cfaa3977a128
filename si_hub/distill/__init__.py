"""Merged checkpoints → adapters: matching two models, and finding the small thing that stands for their difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.lazy import lazy

if TYPE_CHECKING:
    from si_hub.distill.command import distill as distill
    from si_hub.distill.methods.registry import METHODS as METHODS
    from si_hub.distill.pair.change import Change as Change
    from si_hub.distill.pair.matching import Pair as Pair
    from si_hub.distill.pair.matching import match as match
    from si_hub.distill.pair.model import ModelOnDisk as ModelOnDisk
    from si_hub.distill.pair.opening import open_model as open_model
    from si_hub.distill.previews import Curve as Curve
    from si_hub.distill.previews import compare as compare
    from si_hub.distill.previews import curve as curve
    from si_hub.distill.result import Distilled as Distilled

_HOMES = {
    "METHODS": "si_hub.distill.methods.registry",
    "Change": "si_hub.distill.pair.change",
    "Curve": "si_hub.distill.previews",
    "Distilled": "si_hub.distill.result",
    "ModelOnDisk": "si_hub.distill.pair.model",
    "Pair": "si_hub.distill.pair.matching",
    "curve": "si_hub.distill.previews",
    "compare": "si_hub.distill.previews",
    "distill": "si_hub.distill.command",
    "match": "si_hub.distill.pair.matching",
    "open_model": "si_hub.distill.pair.opening",
}

__all__ = list(_HOMES)


__getattr__, __dir__ = lazy(__name__, _HOMES)
