"""What a model knows of its adapters: a record of each, the places that carry them, and what fusing put aside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from si_hub.schedule import Schedule
from si_hub.tuner.kinds import CALLED_INSTEAD
from si_hub.tuner.layer import Control, StyleInjectLayer, set_weights
from si_hub.tuner.projections import unwatch, watch
from si_hub.tuner.requests import Role, RowPlan, Watchmaker

_PROJECTIONS = {name for names in CALLED_INSTEAD.values() for name in names}


@dataclass(slots=True)
class Record:
    """What the model knows of one adapter.

    Attributes:
        managed: loaded by our functions; PEFT does not know it.
        active: chosen by set_active or, if PEFT knows it, by set_adapter.
        branches: branch names, empty where they have none.
        styles: branch weights by name that override the router.
        fused: the factor it is fused with, None where it is not.
        trainable: whether PEFT may turn its gradients on.
        schedule: how its weights change by themselves.
    """

    managed: bool
    active: bool = True
    branches: tuple[str, ...] = ()
    styles: dict[str, float] | None = None
    fused: float | None = None
    trainable: bool = False
    schedule: Schedule | None = None


@dataclass(slots=True)
class Site:
    """A base object that carries our child: a module, or the parent of bare parameters.

    ``attention`` is what calls the module, where that may call a fused one instead.
    """

    base: nn.Module
    layer: Any = field(repr=False)
    attention: nn.Module | None = field(default=None, repr=False)


class Ledger:
    """State of all adapters of one model.

    Attributes:
        control: shared with every layer.
        records: by adapter name.
        sites: by logical module path (as the model names it, without ``.base_layer``).
        originals: what `si_hub.tuner.fusion` keeps, by site.
        frozen: the base's parameters, by logical name, that were trainable before the first adapter.
        clock: tells where in the drawing a call of the model is, for schedules.
        known_enabled: PEFT's own switch (``disable_adapters``), for the adapters that PEFT knows.
    """

    def __init__(self) -> None:
        self.control = Control()
        self.records: dict[str, Record] = {}
        self.sites: dict[str, Site] = {}
        self.originals: dict[str, Any] = {}
        self.clock: Watchmaker | None = None
        self.known_enabled = True
        self.frozen: set[str] = set()
        self._hooks_changed = False

    def layers(self) -> Iterator[tuple[nn.Module, StyleInjectLayer]]:
        for site in self.sites.values():
            yield site.base, site.layer

    def acts(self, name: str) -> bool:
        record = self.records[name]
        switch = self.control.enabled and (record.managed or self.known_enabled)
        return switch and record.active and record.fused is None

    def refresh(self) -> None:
        """Tell every layer which of its adapters act."""
        acting = {name for name in self.records if self.acts(name)}
        for _, layer in self.layers():
            active = tuple(sorted(acting.intersection(layer._modules)))
            if layer.active != active:
                layer.active = active
        scheduled = any(self.records[name].schedule for name in acting)
        self.control.standing = self.standing_plan if scheduled else None
        if self._hooks_changed:
            self._hooks_changed = False
            _forget_compiled()

    def role(self, name: str) -> Role:
        """What an adapter does as it is now."""
        record = self.records[name]
        weights = {layer[name].path: layer[name].weight for _, layer in self.layers() if name in layer.adapters}
        styles = None if record.styles is None else tuple(record.styles.get(one, 0.0) for one in record.branches)
        schedule = record.schedule or Schedule()
        timed = tuple(filter(None, [schedule.weight]))
        by_branch = tuple(tuple(filter(None, [schedule.branches.get(branch)])) for branch in record.branches)
        return Role(name, weights, styles, timed, by_branch if any(by_branch) else ())

    def standing_plan(self) -> RowPlan:
        """What acts without any request."""
        return RowPlan([tuple(self.role(name) for name in self.records if self.acts(name))], self.clock)

    def layer_at(
        self,
        path: str,
        base: nn.Module,
        create: Callable[[Control], Any] = StyleInjectLayer,
        parent: nn.Module | None = None,
    ) -> Any:
        """The child at ``base``, attached now if there is none; ``parent`` is the module that calls it."""
        if path not in self.sites:
            layer = create(self.control).train(base.training)
            layer.attach(base)
            layer.home = path if isinstance(layer, StyleInjectLayer) else path.rpartition(".")[0]
            projection = path.rpartition(".")[2] in _PROJECTIONS
            attention = parent if projection and isinstance(layer, StyleInjectLayer) else None
            if attention is not None:
                watch(attention)
            self.sites[path] = Site(base, layer, attention)
            self._hooks_changed = True
        return self.sites[path].layer

    def drop(self, name: str) -> None:
        """Take one adapter out of every layer, and every layer that is left empty out of the model."""
        # Other threads may be drawing: an adapter stops acting before it goes.
        self.records.pop(name, None)
        self.refresh()
        for path, site in list(self.sites.items()):
            if name in site.layer.adapters:
                del site.layer.adapters[name]
            if not site.layer.adapters:
                site.layer.detach(site.base)
                if site.attention is not None:
                    unwatch(site.attention)
                del self.sites[path]
                self._hooks_changed = True
        self.refresh()

    def let_go(self, names: Collection[str]) -> None:
        """Forget the originals of what these adapters are fused into: the fused weights are the model's from now on."""
        for path, kept in list(self.originals.items()):
            if kept.weights.keys() <= set(names):
                del self.originals[path]
                self.sites[path].layer.originals = None

    def peft_names(self) -> list[str]:
        """Adapters that PEFT knows of."""
        return [name for name, record in self.records.items() if not record.managed]

    def adapters_of(self, name: str) -> list[Any]:
        """What an adapter is made of, layer by layer."""
        found = (layer._modules.get(name) for _, layer in self.layers())
        return [adapter for adapter in found if adapter is not None]

    def weighed(self, name: str, weight: float | Callable[[str], float]) -> list[tuple[Any, float]]:
        """What an adapter is made of, each with its weight: a number, or a function of the layer path."""
        if callable(weight):
            return [(adapter, float(weight(adapter.path))) for adapter in self.adapters_of(name)]
        number = float(weight)
        return [(adapter, number) for adapter in self.adapters_of(name)]

    def set_weight(self, name: str, weight: float | Callable[[str], float]) -> None:
        set_weights(self.weighed(name, weight))


def _forget_compiled() -> None:
    # torch.compile takes the hooks of a module for constants, without a guard: new ones would silently not run.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
