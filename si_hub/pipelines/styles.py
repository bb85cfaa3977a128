"""Branches are styles: their weights, over all adapters of a pipeline."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from si_hub import tuner
from si_hub.errors import UsageError
from si_hub.pipelines import registry
from si_hub.tuner.door import find_door
from si_hub.tuner.steering import check_unfused


def style_names(pipeline: Any, adapters: list[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Branch names by adapter, for those adapters that have named branches."""
    doors = filter(None, map(find_door, registry.models(pipeline).values()))
    found = {name: record.branches for door in doors for name, record in door.records.items() if record.branches}
    return {name: styles for name, styles in found.items() if adapters is None or name in adapters}


def check_styles(styles: Mapping[str, float] | None, known: Mapping[str, Collection[str]]) -> None:
    """Whether styles can be chosen of adapters with these branches, by name; None can always.

    Raises:
        UsageError: a style that no adapter has, a weight that is no finite number, no style at all.
    """
    for style, weight in (styles or {}).items():
        if not any(style in branches for branches in known.values()):
            listed = "; ".join(f"{name}: {', '.join(branches)}" for name, branches in known.items())
            raise UsageError(
                "no adapter has a branch of this name", key=style, expected=listed or "adapters with named branches"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise UsageError("a style's weight is a finite number", key=style, found=repr(weight))
    if styles is not None and not styles:
        raise UsageError("no style is named", hint="set_styles(None) gives the choice back to the router")


def mix_styles(pipeline: Any, styles: Mapping[str, float] | None, adapters: list[str] | None = None) -> None:
    """Override the routers of all adapters that have the named branches; ``None`` gives every router its work back.

    Weights are used as given; a branch of such an adapter that is not named gets 0.

    Raises:
        UsageError: a style that no adapter has, or a weight that is no finite number.
    """
    known = style_names(pipeline, adapters)
    check_styles(styles, known)
    chosen = []
    for model in registry.models(pipeline).values():
        for name, state in tuner.adapters(model).items():
            if name not in known:
                continue
            own = None if styles is None else {style: w for style, w in styles.items() if style in known[name]}
            if own is None or own:
                check_unfused(name, state.fused)
                chosen.append((model, name, own))
    for model, name, own in chosen:
        tuner.set_styles(model, own, [name])
