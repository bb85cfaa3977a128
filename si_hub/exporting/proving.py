"""The proof of an export: what was written, read back by the converters, against the adapter, layer by layer."""

from __future__ import annotations

import math
from pathlib import Path

from si_hub import converters
from si_hub.adapter import Adapter, Layer
from si_hub.architectures import Architecture
from si_hub.architectures.checkpoint import DENOISERS
from si_hub.converters.checking import Check, Own
from si_hub.converters.dense import Difference, Weights, as_double
from si_hub.converters.reading import EXACT
from si_hub.errors import ConversionRefused
from si_hub.exporting.files import ExportFile


def prove(
    adapter: Adapter, architecture: Architecture, weights: Weights | None, files: list[ExportFile], source: Path
) -> Check:
    """Recompute every layer in float64 from the adapter and from the files; the largest relative error.

    Args:
        adapter: of one branch; what was written.
        weights: the base's numbers, which some layers are functions of.
        source: for messages.

    Raises:
        ConversionRefused: a layer does something else there; the files stay, to be looked at.
        UnsupportedFamily: the base's numbers are needed and not there.
    """
    own = Own(adapter=adapter, architecture=architecture, weights=weights, file=source)
    written = _read_back(adapter, architecture, weights, files)
    check = Check()
    for name, component in adapter.components.items():
        for path in component.layers:
            key = (name, path)
            there = next((one for one in written if path in _layers_of(one.adapter, name)), None)
            if there is not None and _are_pairs(
                first := there.adapter.components[name].layers[path], component.layers[path]
            ):
                check.count(".".join(key), _compare_pairs(first, component.layers[path]))
            else:
                check.add(".".join(key), Difference() if there is None else there.expected(key), own.expected(key))
    if not check.largest_error <= EXACT:
        raise ConversionRefused(
            "reading the written file back gives something else", file=files[0].path, key=check.module,
            expected=f"a relative error of {EXACT:g} at most", found=f"{check.largest_error:.3g}",
        )  # fmt: skip
    return check


def _are_pairs(first: Layer, second: Layer) -> bool:
    """Whether both are pairs and nothing else, which need not be multiplied out to be compared."""
    return all(one.tensors.keys() == {"down.weight", "up.weight"} and one.groups == 1 for one in (first, second))


def _compare_pairs(found: Layer, expected: Layer) -> float:
    """The relative error of s u d against s' u' d', by the triangles of their stacked factors' QR decompositions."""
    import torch

    ups = [layer.scale * as_double(layer.tensors["up.weight"]) for layer in (found, expected)]
    downs = [as_double(layer.tensors["down.weight"]).flatten(1) for layer in (found, expected)]
    left = torch.linalg.qr(torch.cat([ups[0], -ups[1]], 1), mode="r").R
    right = torch.linalg.qr(torch.cat(downs).T, mode="r").R
    error, norm = (
        float((left @ right.T).norm()),
        float((left[:, -ups[1].shape[1] :] @ right[:, -len(downs[1]) :].T).norm()),
    )
    return error / norm if norm else math.inf if error else 0.0


def _layers_of(adapter: Adapter, name: str) -> set[str]:
    component = adapter.components.get(name)
    return set() if component is None else set(component.layers)


def _read_back(
    adapter: Adapter, architecture: Architecture, weights: Weights | None, files: list[ExportFile]
) -> list[Own]:
    """The written files as adapters of one branch."""
    folders = len(files) > 1 and all(file.config is not None for file in files)
    paths = [files[0].path.parent] if folders else [file.path for file in files]
    second = [name for name in DENOISERS if name in adapter.components and name != DENOISERS[0]]
    found: list[Own] = []
    for path, file in zip(paths, files, strict=False):
        names = {key.partition(".")[0] for key in file.layers}
        denoiser = next((name for name in second if name in names and name.endswith("_2")), None)
        read = converters.convert_source(
            path, base=architecture, weights=weights, allow_large=True, denoiser=None if folders else denoiser
        )
        found.append(Own(adapter=read.adapter, architecture=architecture, weights=weights, file=path))
    return found
