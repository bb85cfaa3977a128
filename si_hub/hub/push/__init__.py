"""To the Hub: an adapter with its card and pictures, in one commit on a parent that was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.lazy import lazy

if TYPE_CHECKING:
    from si_hub.hub.push.pushing import push as push
    from si_hub.hub.push.result import Pushed as Pushed

_HOMES = {"Pushed": "si_hub.hub.push.result", "push": "si_hub.hub.push.pushing"}

__all__ = list(_HOMES)

__getattr__, __dir__ = lazy(__name__, _HOMES)
