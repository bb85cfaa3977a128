"""The layers of the adapter in the making: every source module cut into the parts that its base modules are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from si_hub.adapter import Component, Layer
from si_hub.architectures import Architecture
from si_hub.architectures.layouts import Part
from si_hub.converters.families.contract import Lowered, SourceModule
from si_hub.converters.numbers import are_equal
from si_hub.errors import AmbiguousFamily
from si_hub.storage.tensors import Tensor

#: Leaves whose first axis is the output axis: what a fused module is cut along.
_OUTPUT_LEAVES = {"up.weight", "weight_delta", "bias_delta", "gain"}


@dataclass(slots=True)
class LayerTable:
    """Layers by component and path, each with one source module that it comes from.

    Attributes:
        architecture: the base model.
        file: the source, for messages.
        components: the layers.
        without_alpha: the source modules whose alpha is 0.
    """

    architecture: Architecture
    file: Path
    components: dict[str, Component] = field(default_factory=dict)
    without_alpha: set[str] = field(default_factory=set)
    _owners: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, component: str, part: Part, lowered: Lowered, module: SourceModule) -> bool:
        """Add the layer of one part, unless it is there already from another name of the module: whether it was added.

        Raises:
            AmbiguousFamily: it is not.
        """
        layer = cut(lowered, part)
        class_name = self.architecture.components[component].class_name
        layers = self.components.setdefault(component, Component(class_name)).layers
        first = self._owners.setdefault((component, part.path), module.stem)
        if first == module.stem:
            layers[part.path] = layer
            return True
        if difference := _difference(layers[part.path], layer):
            raise AmbiguousFamily(
                f"two modules of the file are the same module of the base model, and differ in {difference}",
                file=self.file, key=module.stem, found=first, hint="Keep one of them.",
            )  # fmt: skip
        return False


def cut(lowered: Lowered, part: Part) -> Layer:
    """The layer of one part: rows of the output-axis leaves, the rest shared.

    Where there is a ``kron``, its right factor is shared and the part is rows of it: whole blocks, as of a ``turn``.
    """
    tensors = dict(lowered.leaves)
    if part.rows is not None and (kron := tensors.get("kron")):
        right = tensors["up.weight"] if "up.weight" in tensors else tensors["weight_delta"]
        blocks = [(start // right.shape[0], stop // right.shape[0]) for start, stop in part.rows]
        tensors["kron"] = _rows(kron, blocks)
        if "bias_delta" in tensors:
            tensors["bias_delta"] = _rows(tensors["bias_delta"], part.rows)
    elif part.rows is not None:
        for leaf in _OUTPUT_LEAVES & tensors.keys():
            tensors[leaf] = _rows(tensors[leaf], part.rows)
        if turn := tensors.get("turn"):
            size = turn.shape[1]
            tensors["turn"] = _rows(turn, [(start // size, stop // size) for start, stop in part.rows])
    return Layer(tensors, lowered.alpha, lowered.transform, lowered.pool, lowered.groups)


def _rows(tensor: Tensor, rows: Sequence[tuple[int, int]]) -> Tensor:
    return Tensor.concatenate([tensor.rows(start, stop) for start, stop in rows])


def _difference(first: Layer, second: Layer) -> str | None:
    """What two layers differ in, ``None`` where they are the same."""
    if first.tensors.keys() != second.tensors.keys():
        return "their kinds"
    if first.rank != second.rank:
        return f"their ranks, {first.rank} and {second.rank}"
    if first.scale != second.scale:
        return f"their scales, {first.scale:g} and {second.scale:g}"
    return next((leaf for leaf, one in first.tensors.items() if not are_equal(one, second.tensors[leaf])), None)
