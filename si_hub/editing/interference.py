"""How much adapters that are added up overlap: where they pull the same way, and where they cancel one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from si_hub.converters.checking import Own
from si_hub.editing.comparing import Distance, measure_apart
from si_hub.editing.weighting import LayerWeights

#: Cosine of two changes of a layer from which on they are told to interfere; unrelated ones have 0.
INTERFERING = 0.3
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two adapters of a sum, at their weights.

    Attributes:
        names: of the files.
        layers: how their changes lie to each other, of layers that both change.
        total: of all layers, of one of them alone too.
    """

    names: tuple[str, str]
    layers: dict[str, Distance]
    total: Distance

    @property
    def interfering(self) -> dict[str, float]:
        """Cosine of layers that interfere, the furthest first."""
        found = {key: one.cosine for key, one in self.layers.items() if abs(one.cosine) >= INTERFERING}
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "first": self.names[0], "second": self.names[1], "cosine": self.total.cosine,
            "layers": {key: one.cosine for key, one in self.layers.items()}, "interfering": list(self.interfering),
        }  # fmt: skip

    def as_lines(self) -> list[str]:
        """For people, a warning where layers interfere."""
        lines = [
            f"  overlap  {self.names[0]} and {self.names[1]}: cosine {self.total.cosine:.3f} in all, "
            f"{len(self.layers)} layers in both"
        ]
        for word, sign in (("cancel one another", -1), ("pull the same way, and are stronger than either", 1)):
            found = [(key, value) for key, value in self.interfering.items() if value * sign > 0]
            if found:
                shown = ", ".join(f"{key} {value:.2f}" for key, value in found[:_SHOWN])
                more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
                lines.append(f"  beware   {len(found)} layers {word}: {shown}{more}")
        return lines


def measure_overlaps(own: Sequence[Own], weights: Sequence[LayerWeights]) -> list[Overlap]:
    """Of every two of several adapters of one base model and one branch, at their weights.

    Raises:
        UnsupportedFamily: one is a function of the base's weights, and there are none.
    """
    found = []
    for one, two in combinations(range(len(own)), 2):
        apart = measure_apart((own[one], own[two]))
        distances = {}
        for key, distance in apart.layers.items():
            component, _, path = key.partition(".")
            distances[key] = distance.scaled(weights[one].of(component, path), weights[two].of(component, path))
        both = {key: distance for key, distance in distances.items() if distance.first and distance.second}
        total = sum(distances.values(), Distance())
        found.append(Overlap((apart.paths[0].name, apart.paths[1].name), both, total))
    return found
