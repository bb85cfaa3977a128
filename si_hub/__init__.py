"""si-hub: StyleInject adapters for diffusers, one import away.

Names are imported when they are first used, so that ``import si_hub`` costs nothing and never loads torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from si_hub.adapter import Adapter as Adapter
    from si_hub.conversion import convert as convert
    from si_hub.errors import SiHubError as SiHubError
    from si_hub.inspection import inspect as inspect
    from si_hub.pipelines import enable as enable
    from si_hub.tuner import StyleInjectConfig as StyleInjectConfig
    from si_hub.tuner import StyleInjectModel as StyleInjectModel

_HOMES = {
    "Adapter": "si_hub.adapter",
    "SiHubError": "si_hub.errors",
    "StyleInjectConfig": "si_hub.tuner",
    "StyleInjectModel": "si_hub.tuner",
    "convert": "si_hub.conversion",
    "enable": "si_hub.pipelines",
    "inspect": "si_hub.inspection",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'si_hub' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
