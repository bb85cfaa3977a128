"""Merged checkpoints → adapters: matching two models, and finding the small thing that stands for their difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.lazy import lazy

if TYPE_CHECKING:
    from si_hub.distill.comparing import compare as compare
    from si_hub.distill.curves import Curve as Curve
    from si_hub.distill.curves import curve as curve
    from si_hub.distill.distilling import Distilled as Distilled
    from si_hub.distill.distilling import distill as distill
    from si_hub.distill.methods import METHODS as METHODS
    from si_hub.distill.models import Model as Model
    from si_hub.distill.models import open_model as open_model
    from si_hub.distill.pairs import Change as Change
    from si_hub.distill.pairs import Pair as Pair
    from si_hub.distill.pairs import match as match

_HOMES = {
    "METHODS": "si_hub.distill.methods",
    "Change": "si_hub.distill.pairs",
    "Curve": "si_hub.distill.curves",
    "Distilled": "si_hub.distill.distilling",
    "Model": "si_hub.distill.models",
    "Pair": "si_hub.distill.pairs",
    "curve": "si_hub.distill.curves",
    "compare": "si_hub.distill.comparing",
    "distill": "si_hub.distill.distilling",
    "match": "si_hub.distill.pairs",
    "open_model": "si_hub.distill.models",
}

__all__ = list(_HOMES)


__getattr__, __dir__ = lazy(__name__, _HOMES)
