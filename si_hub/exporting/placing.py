"""Where an adapter's layers stand in another naming: whole modules, each with the parts that it is made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from si_hub.architectures.layouts import Part
from si_hub.architectures.layouts.contract import Layout
from si_hub.architectures.model import Model
from si_hub.errors import ConversionRefused


def place_layers(
    paths: Collection[str], model: Model, layouts: Sequence[Layout], title: str
) -> dict[str, tuple[Part, ...]]:
    """Names of the modules that hold these layers, by the first layout that has one.

    Raises:
        ConversionRefused: some layers are in no module that has a name there.
    """
    names: dict[str, tuple[Part, ...]] = {}
    covered: set[str] = set()
    for layout in layouts:
        for name, parts in layout(model).items():
            inside = {part.path for part in parts}
            if inside & covered or not inside & set(paths):
                continue
            names[name] = parts
            covered |= inside
    if missing := sorted(set(paths) - covered):
        raise ConversionRefused(
            f"{title} has no name for {len(missing)} of its modules", key=missing[0],
            hint="Choose another format, or split these modules off",
        )  # fmt: skip
    return names
