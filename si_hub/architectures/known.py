"""A base model that was read off a folder or a live pipeline, under the name of the shipped one that it is."""

from __future__ import annotations

from dataclasses import replace

from si_hub.architectures.bases import BASES
from si_hub.architectures.checkpoint import DENOISERS, OPTIONAL_MODULES, is_alike
from si_hub.architectures.model import Architecture, Model
from si_hub.architectures.shipped import load, names


def under_known_name(found: Architecture) -> Architecture:
    """``found`` with a shipped architecture's name where its denoiser is that one's, module by module."""
    for known in map(load, names()):
        for part in DENOISERS:
            held, expected = found.components.get(part), known.components.get(part)
            if held and expected and held.modules == expected.modules:
                return replace(found, name=known.name, aliases=known.aliases)
    return found


def rank_alike(found: Architecture) -> list[str]:
    """Names of the shipped base models whose denoisers a model's are, the likeliest first; none for one of its own.

    It may lack what some releases lack, have other input channels, and have more than they: image adapters, fused
    projections. Several base models have the same denoiser, and go by how many of them take turns.
    """
    ranked: list[tuple[int, int, str]] = []
    largest = 0
    for base in BASES:
        named = base.denoisers()
        shared = found.components.keys() & named.keys()
        if not any(found.components[part].class_name == named[part].class_name for part in shared):
            continue
        known = load(base.name).components
        parts = [part for part in shared if _holds(found.components[part], known[part])]
        if parts:
            largest = max(largest, size := max(len(known[part].modules) for part in parts))
            ranked.append((size, abs(len(named) - len(found.components.keys() & set(DENOISERS))), base.name))
    return [name for size, _, name in sorted(ranked, key=lambda entry: entry[1]) if size == largest]


def _holds(held: Model, expected: Model) -> bool:
    """Whether a model has the modules of another one, as a release of it would."""
    return all(
        is_alike(path, held.modules[path].shape, module.shape)
        if path in held.modules
        else path.startswith(OPTIONAL_MODULES)
        for path, module in expected.modules.items()
    )
