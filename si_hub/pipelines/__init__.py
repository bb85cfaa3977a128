"""StyleInject in diffusers pipelines: `enable` for all of them, `StyleInjectLoaderMixin` for one's own class."""

from __future__ import annotations

from si_hub.pipelines.cache import AdapterCache as AdapterCache
from si_hub.pipelines.enabling import enable as enable
from si_hub.pipelines.enabling import is_enabled as is_enabled
from si_hub.pipelines.mixin import StyleInjectLoaderMixin as StyleInjectLoaderMixin
from si_hub.pipelines.report import ComponentReport as ComponentReport
from si_hub.pipelines.report import LoadReport as LoadReport
from si_hub.pipelines.request import Act as Act
from si_hub.pipelines.request import StyleInjectRequest as StyleInjectRequest

__all__ = [
    "AdapterCache",
    "ComponentReport",
    "LoadReport",
    "StyleInjectLoaderMixin",
    "StyleInjectRequest",
    "Act",
    "enable",
    "is_enabled",
]
