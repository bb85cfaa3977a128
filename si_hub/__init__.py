"""si-hub: StyleInject adapters for diffusers, one import away.

Names are imported when they are first used, so that ``import si_hub`` costs nothing and never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.lazy import lazy

__version__ = "0.1.0"

if TYPE_CHECKING:
    from si_hub import distill as distill
    from si_hub.adapter import Adapter as Adapter
    from si_hub.conversion import convert as convert
    from si_hub.editing.command import merge as merge
    from si_hub.editing.command import resize as resize
    from si_hub.editing.comparing import diff as diff
    from si_hub.editing.describing import edit as edit
    from si_hub.editing.fusing import fuse as fuse
    from si_hub.editing.splitting import split as split
    from si_hub.editing.unfusing import find_fused as find_fused
    from si_hub.errors import SiHubError as SiHubError
    from si_hub.exporting.command import export as export
    from si_hub.hub.pull import pull as pull
    from si_hub.hub.push import push as push
    from si_hub.inspection import inspect as inspect
    from si_hub.pipelines import Act as Act
    from si_hub.pipelines import AdapterCache as AdapterCache
    from si_hub.pipelines import enable as enable
    from si_hub.training.command import train as train
    from si_hub.tuner import StyleInjectConfig as StyleInjectConfig
    from si_hub.tuner import StyleInjectModel as StyleInjectModel

_HOMES = {
    "Adapter": "si_hub.adapter",
    "SiHubError": "si_hub.errors",
    "StyleInjectConfig": "si_hub.tuner",
    "StyleInjectModel": "si_hub.tuner",
    "Act": "si_hub.pipelines",
    "AdapterCache": "si_hub.pipelines",
    "convert": "si_hub.conversion",
    "diff": "si_hub.editing.comparing",
    "edit": "si_hub.editing.describing",
    "enable": "si_hub.pipelines",
    "fuse": "si_hub.editing.fusing",
    "export": "si_hub.exporting.command",
    "inspect": "si_hub.inspection",
    "pull": "si_hub.hub.pull",
    "merge": "si_hub.editing.command",
    "push": "si_hub.hub.push",
    "split": "si_hub.editing.splitting",
    "resize": "si_hub.editing.command",
    "find_fused": "si_hub.editing.unfusing",
    "train": "si_hub.training.command",
}

#: Rooms that are used as such: ``si_hub.distill.distill(...)``.
_ROOMS = ("distill",)

__all__ = ["__version__", *_HOMES, *_ROOMS]


__getattr__, __dir__ = lazy(__name__, _HOMES, _ROOMS)
