"""The shipped base models, one module each; whatever else needs to know one asks here.

To add one: a module with its `Base`, its place in `BASES`, then ``python -m si_hub.architectures.generate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from si_hub.architectures.bases import flux, sd3, sd15, sd21, sdxl, sdxl_refiner
from si_hub.architectures.bases.contract import Base, Blueprint

__all__ = ["BASES", "BY_NAME", "Base", "Blueprint", "find_base"]

#: In the order in which they are tried and listed.
BASES: tuple[Base, ...] = (sd15.BASE, sd21.BASE, sdxl.BASE, sdxl_refiner.BASE, flux.BASE, sd3.BASE)

#: Names that a hint shows; there are too many for all of them.
USUAL = ("sd15", "sdxl", "flux", "sd3")

BY_NAME: Mapping[str, Base] = MappingProxyType({base.name: base for base in BASES})


def find_base(name: str) -> Base | None:
    """A base model by its name or an alias, in any case."""
    name = name.lower()
    return next((base for base in BASES if name == base.name or name in base.aliases), None)
