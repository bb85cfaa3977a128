"""StyleInject in live models: functions for pipelines, and the PEFT tuner.

Names are imported when they are first used: who needs the operator alone, as a program without diffusers and PEFT does,
imports neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from si_hub.lazy import lazy

if TYPE_CHECKING:
    from si_hub.tuner.config import StyleInjectConfig as StyleInjectConfig
    from si_hub.tuner.door import root_of as root_of
    from si_hub.tuner.injection import InjectReport as InjectReport
    from si_hub.tuner.injection import bake as bake
    from si_hub.tuner.injection import extract as extract
    from si_hub.tuner.injection import inject as inject
    from si_hub.tuner.injection import needed_bytes as needed_bytes
    from si_hub.tuner.injection import remove as remove
    from si_hub.tuner.leaves import Mismatch as Mismatch
    from si_hub.tuner.model import StyleInjectModel as StyleInjectModel
    from si_hub.tuner.steering import AdapterState as AdapterState
    from si_hub.tuner.steering import adapter_names as adapter_names
    from si_hub.tuner.steering import adapters as adapters
    from si_hub.tuner.steering import chosen_names as chosen_names
    from si_hub.tuner.steering import fuse_in_place as fuse_in_place
    from si_hub.tuner.steering import set_active as set_active
    from si_hub.tuner.steering import set_enabled as set_enabled
    from si_hub.tuner.steering import set_schedule as set_schedule
    from si_hub.tuner.steering import set_styles as set_styles
    from si_hub.tuner.steering import to_device as to_device
    from si_hub.tuner.steering import unfuse as unfuse

_HOMES = {
    "StyleInjectConfig": "si_hub.tuner.config",
    "root_of": "si_hub.tuner.door",
    "InjectReport": "si_hub.tuner.injection",
    "bake": "si_hub.tuner.injection",
    "extract": "si_hub.tuner.injection",
    "inject": "si_hub.tuner.injection",
    "needed_bytes": "si_hub.tuner.injection",
    "remove": "si_hub.tuner.injection",
    "Mismatch": "si_hub.tuner.leaves",
    "StyleInjectModel": "si_hub.tuner.model",
    "AdapterState": "si_hub.tuner.steering",
    "chosen_names": "si_hub.tuner.steering",
    "adapter_names": "si_hub.tuner.steering",
    "adapters": "si_hub.tuner.steering",
    "fuse_in_place": "si_hub.tuner.steering",
    "set_active": "si_hub.tuner.steering",
    "set_enabled": "si_hub.tuner.steering",
    "set_schedule": "si_hub.tuner.steering",
    "set_styles": "si_hub.tuner.steering",
    "to_device": "si_hub.tuner.steering",
    "unfuse": "si_hub.tuner.steering",
}

__all__ = list(_HOMES)


_get, __dir__ = lazy(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    # Whoever adapts a model this way may have PEFT in it too, which is to know the tuner then: `register`.
    if name in _HOMES:
        import_module("si_hub.tuner.model")
    return _get(name)
