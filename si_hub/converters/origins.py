"""Where the layers of a converted adapter come from: a layer's dense difference by its source module's definition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from si_hub.adapter import Layer
from si_hub.architectures.layouts import Part
from si_hub.converters.checking import cut_difference, differ_by_layer
from si_hub.converters.dense import BaseModule, Difference
from si_hub.converters.detect.detection import Detection
from si_hub.converters.detect.matching import Match, target
from si_hub.converters.families.contract import SourceModule, Target
from si_hub.converters.naming.names import Place

#: A layer: component and frozen path.
LayerKey = tuple[str, str]


@dataclass(slots=True)
class Origins:
    """The source modules of layers.

    Attributes:
        found: the source.
        match: its base model.
    """

    found: Detection
    match: Match
    _stems: dict[LayerKey, tuple[str, Part]] = field(default_factory=dict)
    _others: dict[LayerKey, Origins] = field(default_factory=dict)

    def beside(self, other: Origins) -> Origins:
        """These origins and those of another source's layers."""
        return replace(self, _others={**self._others, **dict.fromkeys(other, other)})

    def remember(self, module: SourceModule) -> None:
        """Note what a module became."""
        place = self.match.places[module.stem]
        for part in place.parts:
            self._stems.setdefault((place.component, part.path), (module.stem, part))

    def __iter__(self) -> Iterator[LayerKey]:
        """Every layer."""
        return iter((*self._stems, *self._others))

    def base_module(self, module: SourceModule, place: Place) -> BaseModule | None:
        """What the base has where a module belongs, where its weights are given."""
        if self.found.weights is None:
            return None
        modules = self.match.architecture.components[place.component].modules
        return BaseModule(self.found.weights, place.component, place.parts, modules, module.file, module.stem)

    def target(self, key: LayerKey) -> Target:
        """The base's module that a layer is for."""
        if key in self._others:
            return self._others[key].target(key)
        place, _ = self._alone(key)
        return target(self.match.architecture, place)

    def expected(self, key: LayerKey) -> Difference:
        """What the source does to a layer's module, by its family's definition."""
        if key in self._others:
            return self._others[key].expected(key)
        stem, part = self._stems[key]
        module, family, place = self.found.grouped.modules[stem], self.found.families[stem], self.match.places[stem]
        assert family.differ is not None, "what is not converted has no layer"
        whole = family.differ(module, target(self.match.architecture, place), self.base_module(module, place))
        return cut_difference(whole, part.rows)

    def reached(self, key: LayerKey, layer: Layer) -> Difference:
        """What a layer does to its module, by docs/FORMAT.md."""
        if key in self._others:
            return self._others[key].reached(key, layer)
        place, module = self._alone(key)
        return differ_by_layer(layer, target(self.match.architecture, place), self.base_module(module, place))

    def _alone(self, key: LayerKey) -> tuple[Place, SourceModule]:
        """A layer's own place, and the module that it comes from."""
        stem, part = self._stems[key]
        alone = replace(self.match.places[stem], parts=(Part(part.path),))
        return alone, self.found.grouped.modules[stem]
