"""From the Hub: one commit, only what is safe, every byte verified before it can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from si_hub.lazy import lazy

if TYPE_CHECKING:
    from si_hub.hub.pull.pulling import Pulled as Pulled
    from si_hub.hub.pull.pulling import pull as pull

_HOMES = {"Pulled": "si_hub.hub.pull.pulling", "pull": "si_hub.hub.pull.pulling"}

__all__ = list(_HOMES)

__getattr__, __dir__ = lazy(__name__, _HOMES)
