"""The Hub: repositories pushed, pulled and looked at, whole and verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.lazy import lazy

if TYPE_CHECKING:
    from si_hub.hub.pulling import Pulled as Pulled
    from si_hub.hub.pulling import pull as pull
    from si_hub.hub.pushed import Pushed as Pushed
    from si_hub.hub.pushing import push as push

_HOMES = {
    "Pulled": "si_hub.hub.pulling",
    "Pushed": "si_hub.hub.pushed",
    "pull": "si_hub.hub.pulling",
    "push": "si_hub.hub.pushing",
}

__all__ = list(_HOMES)

__getattr__, __dir__ = lazy(__name__, _HOMES)
