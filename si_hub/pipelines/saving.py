"""From what is loaded back to an Adapter: what is still as it was loaded is saved in the bytes it came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from si_hub import format as file_format
from si_hub import tuner
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import FileAccessError, UsageError
from si_hub.pipelines import embeddings, padding, registry
from si_hub.pipelines.bases import name_base
from si_hub.storage.tensors import Tensor
from si_hub.words import label

#: Files under other names are refused when they are loaded.
_SUFFIX = ".safetensors"


def collect_adapter(
    pipeline: Any, name: str, components: Sequence[str] | None, base_model: BaseModel | str | PathLike[str] | None
) -> Adapter:
    """One loaded adapter as an `Adapter`.

    Args:
        components: which to take, all by default.
        base_model: what the adapter is for, see `si_hub.pipelines.bases.name_base`; needed where it was not loaded
            from a file but added for training.

    Raises:
        UsageError: no such component, or no base model known.
    """
    owners = registry.by_name(pipeline)[name]
    for component in components or ():
        if component not in owners:
            raise UsageError(
                f"adapter {name!r} does not adapt it", key=component, expected="one of " + ", ".join(owners)
            )
    models = registry.models(pipeline)
    taken = {component: models[component] for component in components or owners}
    known = [registry.sources(model).get(name) for model in taken.values()]
    source = next((adapter for adapter in known if adapter is not None), None)
    base = name_base(base_model, pipeline) if base_model is not None else source.base_model if source else None
    if base is None:
        raise UsageError(
            "this adapter was not loaded from a file, so nothing says what it is for",
            key=name,
            hint="Say it: base_model='sdxl', or the name of its architecture",
        )
    for component, model in taken.items():
        config = getattr(tuner.root_of(model), "peft_config", {}).get(name)
        if whole := getattr(config, "modules_to_save", None):
            raise UsageError(
                "modules that are trained whole have no place in a StyleInject file",
                key=component,
                found=", ".join(sorted(whole)),
                hint="PEFT's own save_pretrained saves them",
            )
    parts = {}
    for component, model in taken.items():
        before = source.components.get(component, Component()) if source else Component(type(model).__name__)
        live = tuner.extract(model, name) if name in tuner.adapters(model) else Component()
        loaded = padding.pad(model, before, component).layers
        parts[component] = Component(
            before.class_name,
            {path: _layer(layer, before.layers.get(path), loaded.get(path)) for path, layer in live.layers.items()},
            {
                token: _keep_unchanged(Tensor.from_torch(rows), before.embeddings[token])
                for token, rows in embeddings.live_embeddings(pipeline, component, before.embeddings).items()
            },
        )
    if source is not None:
        return replace(source, base_model=base, components=parts)
    branches = next((tuple(tuner.adapters(model)[name].branches) for model in taken.values()), ())
    return Adapter(base, parts, branches)


def only_name(pipeline: Any, name: str | None) -> str:
    """``name``, checked; without one, the only loaded adapter."""
    loaded = list(registry.by_name(pipeline))
    if name is None and len(loaded) != 1:
        found = ", ".join(loaded) or "none is loaded"
        raise UsageError("which adapter is not clear", key="adapter_name", found=found)
    return registry.list_names(name or loaded[0], pipeline)[0]


def write_adapter(adapter: Adapter, folder: Path, weight_name: str, overwrite: bool) -> file_format.Written:
    """Write into ``folder``, which is created where it does not exist.

    Raises:
        UsageError: a name under which no loader would open the file.
        FileAccessError: a file in the way.
    """
    if not weight_name.endswith(_SUFFIX):
        raise UsageError(
            "the file's name is a pickle's or nobody's, and would not be loaded", key=label("weight_name"),
            expected=f"a name that ends in {_SUFFIX}", found=weight_name,
        )  # fmt: skip
    if "\0" in str(folder):
        raise FileAccessError("a folder's name cannot hold a zero byte", file=folder)
    if folder.is_file():
        raise FileAccessError("a folder is expected, this is a file", file=folder)
    folder.mkdir(parents=True, exist_ok=True)
    return file_format.write(adapter, folder / weight_name, overwrite=overwrite)


def _layer(live: Layer, before: Layer | None, loaded: Layer | None) -> Layer:
    """One layer to save, given what was read and what that became by padding (the same object without)."""
    if before is None or loaded is None:
        return live
    alpha = loaded.alpha if loaded.scale == live.scale else live.alpha
    tensors = {
        leaf: _keep_unchanged(tensor, loaded.tensors[leaf]) if leaf in loaded.tensors else tensor
        for leaf, tensor in live.tensors.items()
    }
    if loaded is not before and alpha == loaded.alpha and all(t is loaded.tensors.get(k) for k, t in tensors.items()):
        return before
    return replace(live, tensors=tensors, alpha=alpha)


def _keep_unchanged(live: Tensor, before: Tensor) -> Tensor:
    """``before`` (its own dtype, its own kind of kernel) where ``live`` is what loading it gives, else ``live``."""
    if live.count != before.count:
        return live
    values = live.torch()
    try:
        loaded = before.torch()
    except (OSError, EOFError, ValueError):
        # The file is gone or was cut since; the values in the model are what counts.
        return live
    return before if torch.equal(loaded.to(values.dtype).reshape(values.shape), values) else live
