"""What the adapters of a live model do: which act, how strongly, with which styles, where.

``model`` is any component, as in `si_hub.tuner.injection`. Every function leaves it as it was when it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from si_hub.errors import UsageError
from si_hub.schedule import Schedule
from si_hub.tuner.door import Door, find_door, watch_runs
from si_hub.tuner.fusion import fuse_into_base, unfuse_from_base
from si_hub.tuner.layer import give_styles, set_weights
from si_hub.tuner.requests import Watchmaker

ModuleWeight = float | Callable[[str], float]


@dataclass(frozen=True, slots=True)
class AdapterState:
    """One adapter of a model.

    Attributes:
        weights: the user's weight by layer path.
        active: whether it was chosen to act.
        enabled: whether adapters of this model are switched on.
        branches: branch names.
        styles: branch weights that override the router, None for the router itself.
        fused: the factor it is fused into the base with, None where it is not.
    """

    weights: dict[str, float]
    active: bool
    enabled: bool
    branches: tuple[str, ...]
    styles: dict[str, float] | None
    fused: float | None


def door_with(model: nn.Module, names: Iterable[str]) -> Door:
    """The door, which has to know all the names."""
    door = find_door(model)
    known = {} if door is None else door.records
    unknown = sorted(set(names) - known.keys())
    if unknown or door is None:
        raise UsageError(
            "no adapter of that name in the model",
            key=", ".join(unknown) or None,
            found=sorted(known),
            hint="Load it first, or use a name from the list",
        )
    return door


def adapters(model: nn.Module) -> dict[str, AdapterState]:
    """The state of every adapter of the model, by name."""
    door = find_door(model)
    if door is None:
        return {}
    return {
        name: AdapterState(
            weights={layer[name].path: layer[name].weight for _, layer in door.layers() if name in layer.adapters},
            active=record.active,
            enabled=door.control.enabled and (record.managed or door.known_enabled),
            branches=record.branches,
            styles=None if record.styles is None else dict(record.styles),
            fused=record.fused,
        )
        for name, record in door.records.items()
    }


def adapter_names(model: nn.Module) -> list[str]:
    """The names of the model's adapters, in the order they came."""
    door = find_door(model)
    return [] if door is None else list(door.records)


def chosen_names(model: nn.Module) -> list[str]:
    """The names of those that were chosen to act."""
    door = find_door(model)
    return [] if door is None else [name for name, record in door.records.items() if record.active]


def set_active(model: nn.Module, weights: Mapping[str, ModuleWeight]) -> None:
    """Choose which adapters act, and how strongly; those not named become inactive.

    Args:
        weights: by adapter name, a number or a function of the layer path.

    Raises:
        UsageError: for an unknown name.
    """
    if not weights and find_door(model) is None:
        return
    door = door_with(model, weights)
    # All are known before any is set: a function may raise.
    set_weights([pair for name, weight in weights.items() for pair in door.weighed(name, weight)])
    for name, record in door.records.items():
        record.active = name in weights
    door.refresh()


def set_enabled(model: nn.Module, enabled: bool) -> None:
    """Switch all adapters on or off; which are active, and their weights, stay as they are."""
    door = find_door(model)
    if door is not None:
        door.control.enabled = enabled
        door.refresh()


def set_styles(model: nn.Module, styles: Mapping[str, float] | None, names: Iterable[str] | str | None = None) -> None:
    """Override the router by branch weights, used as given; None gives s back to the router.

    Branches not named get weight 0. Layers of a single shared branch are not touched.

    Args:
        styles: by branch name.
        names: adapters meant; by default every adapter that has one of the branches.

    Raises:
        UsageError: for an unknown adapter or branch, or a fused adapter.
    """
    names = [names] if isinstance(names, str) else names
    if styles is None and find_door(model) is None:
        return
    door = door_with(model, names or ())
    chosen = list(door.records) if names is None else list(names)
    if styles is not None and names is None:
        chosen = [name for name in chosen if styles.keys() & set(door.records[name].branches)]
    known = {branch for name in chosen for branch in door.records[name].branches}
    unknown = sorted((styles or {}).keys() - known)
    if unknown:
        everything = sorted({branch for record in door.records.values() for branch in record.branches})
        raise UsageError("no branch of that name", key=", ".join(unknown), found=everything)
    given = None if styles is None else {branch: float(weight) for branch, weight in styles.items()}
    for name in chosen:
        check_unfused(name, door.records[name].fused)
    for name in chosen:
        _override(door, name, given)


def check_unfused(name: str, fused: float | None) -> None:
    """Raise UsageError for an adapter whose styles cannot be chosen now, given the factor it is fused with."""
    if fused is not None:
        raise UsageError("a fused adapter's styles are fixed", key=name, hint="Unfuse it first")


def set_schedule(model: nn.Module, name: str, schedule: Schedule | None, clock: Watchmaker) -> None:
    """Let an adapter's weights follow a schedule, or none (None).

    Args:
        clock: tells where in the drawing a call of the model is.

    Raises:
        UsageError: for an unknown adapter.
    """
    door = door_with(model, [name])
    door.records[name].schedule = schedule
    door.clock = clock
    if schedule is not None:
        watch_runs(model)
    door.refresh()


def _override(door: Door, name: str, styles: dict[str, float] | None) -> None:
    record = door.records[name]
    record.styles = None if styles is None else dict(styles)
    values = None if styles is None else tuple(styles.get(branch, 0.0) for branch in record.branches)
    give_styles([one for one in door.adapters_of(name) if one.branches == len(record.branches) > 0], values)


def to_device(model: nn.Module, names: Iterable[str] | str, device: torch.device | str | int) -> None:
    """Move adapters to a device, to make room; they have to be back beside the base to act.

    Raises:
        UsageError: for an unknown name.
    """
    names = [names] if isinstance(names, str) else list(names)
    for _, layer in door_with(model, names).layers():
        for name in names:
            if name in layer.adapters:
                layer[name].to(device)


def fuse_in_place(
    model: nn.Module, names: Iterable[str] | str | None = None, scale: float = 1.0, safe: bool = False
) -> None:
    """Compute the base weights with adapters in them; the adapters stop acting on their own.

    Exact where T is ``add`` and s does not depend on the input: one branch, a fixed router, or styles set. Fusing an
    adapter again replaces its factor.

    Args:
        names: adapters, by default the active ones.
        scale: factor on top of the user's weights.
        safe: check that the fused weights are finite before any is changed.

    Raises:
        ConversionRefused: where it would not be exact, or where a module has no bias to fuse one into.
        UsageError: for an unknown name.
        NotFinite: by ``safe``.
    """
    door = find_door(model)
    if door is None:
        raise UsageError("the model has no adapters", hint="Load one first")
    chosen = [names] if isinstance(names, str) else names
    fuse_into_base(
        door, [n for n in door.records if door.acts(n)] if chosen is None else list(chosen), scale, safe=safe
    )


def unfuse(model: nn.Module, names: Iterable[str] | str | None = None) -> None:
    """Put the base weights back, bit for bit; the adapters act on their own again.

    Where something else (a LoRA) was fused or unfused in between, that is kept, with a warning and to rounding.
    """
    door = find_door(model)
    if door is not None:
        chosen = [names] if isinstance(names, str) else names
        unfuse_from_base(door, list(door.records if chosen is None else chosen))
