"""Putting an adapter into a pipeline: all of it or, whatever goes wrong, nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from si_hub import tuner
from si_hub.adapter import Adapter, Component
from si_hub.architectures.reach import out_of_reach
from si_hub.errors import BaseMismatch, NotFinite, UsageError
from si_hub.pipelines import embeddings, padding, registry
from si_hub.pipelines.clock import Clock, is_timed
from si_hub.pipelines.report import ComponentReport, LoadReport
from si_hub.schedule import read_schedule
from si_hub.storage.finite import count_bad
from si_hub.storage.tensors import OpenFiles, Tensor, memory_of

_SHOWN = 3


def load_adapter(
    pipeline: Any,
    adapter: Adapter,
    name: str | None,
    *,
    source: str,
    low_cpu_mem_usage: bool,
    strict: bool,
    allowed: Collection[str] = (),
    values: ReadTensors | None = None,
    active: bool = True,
) -> LoadReport:
    """Add ``adapter`` to every component of the pipeline that it has layers for, under a new name.

    Others are not deactivated here.

    Args:
        allowed: components that it may change though they are neither denoisers nor text encoders.
        values: what `read_finite` returned, where it was read already.
        active: whether it acts where nobody chooses.

    Raises:
        UsageError: the name is in use, or no name for an adapter.
        NotFinite: a tensor holds NaN or infinity.
        NumberOverflow: a finite number that the model's dtype cannot hold.
        BaseMismatch: nothing matched, or not everything did and ``strict`` is set; a component out of reach.
    """
    name = registry.free_name(pipeline) if name is None else name
    check_new_name(pipeline, name)
    check_reach(adapter, source, allowed)
    models = registry.models(pipeline)
    # What is padded is computed anew from the file.
    kept = [component for component, model in models.items() if not padding.is_padded(model)]
    values = read_finite(adapter, source, kept) if values is None else values
    parts = {}
    with ExitStack() as undo:
        for component, content in adapter.components.items():
            model = models.get(component)
            if model is None:
                parts[component] = ComponentReport(missing=(*content.layers, *_tokens(content)))
                continue
            undo.callback(_remove_layers, model, name)
            inject = partial(
                tuner.inject, model, name=name, branches=adapter.branches, low_cpu_mem_usage=low_cpu_mem_usage,
                read=values.take, active=active,
            )  # fmt: skip
            layers = _add_layers(inject, padding.pad(model, content, component), content)
            tokens = _add_embeddings(pipeline, component, content)
            if tokens.matched:
                undo.callback(embeddings.remove_embeddings, pipeline, component, content.embeddings)
            parts[component] = layers + tokens
        report = LoadReport(name, source, base_text(adapter), parts)
        check_complete(report, pipeline, strict)
        follow_schedule(pipeline, [models[part] for part in parts if part in models], name, adapter)
        undo.pop_all()
    for component, part in parts.items():
        if part.matched:
            registry.remember(models[component], name, adapter)
    return report


def follow_schedule(pipeline: Any, adapted: Sequence[nn.Module], name: str, adapter: Adapter) -> None:
    """Let the denoisers among these models follow the schedule that an adapter's document has, or none.

    Raises:
        BaseMismatch: there is a schedule, and no denoiser to follow it.
    """
    schedule = read_schedule(adapter.about, adapter.branches)
    timed = [model for model in adapted if is_timed(model) and name in tuner.adapter_names(model)]
    if schedule is not None and not timed:
        raise BaseMismatch("the adapter's weights change by step, and none of its models is a denoiser", key="schedule")
    for model in timed:
        tuner.set_schedule(model, name, schedule, Clock(pipeline))


def _add_layers(
    inject: Callable[[Component], tuner.InjectReport], padded: Component, content: Component
) -> ComponentReport:
    if not content.layers:
        return ComponentReport()
    found = inject(padded)
    matched = tuple(path for path in found.matched if path in content.layers)
    return ComponentReport(matched, tuple(found.missing), tuple(misfits(found)))


def _add_embeddings(pipeline: Any, component: str, content: Component) -> ComponentReport:
    if content.embeddings and embeddings.tokenizer_of(pipeline, component) is None:
        reason = f"{type(pipeline).__name__} cannot load textual inversions"
        return ComponentReport(unexpected=tuple(f"{token}: {reason}" for token in _tokens(content)))
    embeddings.add_embeddings(pipeline, component, content.embeddings)
    return ComponentReport(matched=tuple(_tokens(content)))


def _tokens(content: Component) -> list[str]:
    return [f"embedding.{token}" for token in content.embeddings]


def misfits(report: tuner.InjectReport) -> list[str]:
    """The layers whose module has another shape, each with all its differences."""
    by_path: dict[str, list[str]] = {}
    for entry in report.mismatched:
        by_path.setdefault(entry.path, []).append(f"{entry.leaf} is {entry.found}, not {entry.expected}")
    return [f"{path}: {'; '.join(differences)}" for path, differences in by_path.items()]


def _remove_layers(model: nn.Module, name: str) -> None:
    if name in tuner.adapter_names(model):
        tuner.remove(model, [name])


def unload_adapters(pipeline: Any, names: list[str]) -> None:
    """Take adapters out of every component, embeddings included."""
    for component, model in registry.models(pipeline).items():
        for name in names:
            source = registry.sources(model).get(name)
            _remove_layers(model, name)
            content = source.components[component] if source else Component()
            if content.embeddings and embeddings.tokenizer_of(pipeline, component) is not None:
                embeddings.remove_embeddings(pipeline, component, content.embeddings)
            registry.forget(model, name)


def activate(models: Mapping[str, nn.Module], weights: Mapping[str, dict[str, float | Callable[[str], float]]]) -> None:
    """Make the named adapters, with these weights, the only active ones; components not named have none."""
    for component, model in models.items():
        present = tuner.adapter_names(model)
        if present:
            tuner.set_active(model, {n: w for n, w in weights.get(component, {}).items() if n in present})


def check_reach(adapter: Adapter, source: str, allowed: Collection[str]) -> None:
    """Raises BaseMismatch for components that an adapter changes only where the user has named them."""
    if beyond := out_of_reach(adapter.base_model.architecture, adapter.components, allowed):
        raise BaseMismatch(
            "the adapter would change what is neither a denoiser nor a text encoder",
            file=source,
            key=", ".join(beyond),
            expected="such as unet, transformer, text_encoder",
            hint=f"If that is what it is meant for and you trust it: allow_components={beyond}",
        )


class ReadTensors:
    """Tensors of a file that are in memory already."""

    def __init__(self) -> None:
        self._held: dict[int, torch.Tensor] = {}

    def hold(self, tensor: Tensor, files: OpenFiles) -> torch.Tensor:
        """Read a tensor, for whoever takes it first."""
        values = self._held[id(tensor)] = tensor.torch(files)
        return values

    def take(self, tensor: Tensor) -> torch.Tensor:
        """The values of a tensor, the taker's own: held no longer, or read anew."""
        held = self._held.pop(id(tensor), None)
        return tensor.torch() if held is None else held


def read_finite(adapter: Adapter, source: str, held: Collection[str] = ()) -> ReadTensors:
    """Look at every tensor for NaN and infinity; nothing is decoded for that.

    Args:
        held: components whose tensors are read for good, once, so that they need not be read again.

    Raises:
        NotFinite: the first tensor that has one.
    """
    values = ReadTensors()
    with OpenFiles() as files:
        for component, content in adapter.components.items():
            tensors = {
                f"{path}.{leaf}": one for path, layer in content.layers.items() for leaf, one in layer.tensors.items()
            }
            tensors |= {f"embedding.{token}": tensor for token, tensor in content.embeddings.items()}
            for key, tensor in tensors.items():
                if component in held and tensor.count and not key.startswith("embedding."):
                    bad = count_bad(tensor.dtype, memory_of(values.hold(tensor, files)))
                else:
                    bad = sum(map(partial(count_bad, tensor.dtype), tensor.chunks()))
                if bad:
                    raise NotFinite(
                        "the tensor holds numbers that are NaN or infinite",
                        file=source,
                        key=f"{component}.{key}",
                        found=f"{bad} of {tensor.count}",
                        hint="Such a file cannot give an image; get or train it again",
                    )
    return values


def check_complete(report: LoadReport, pipeline: Any, strict: bool) -> None:
    """Raises BaseMismatch where nothing matched, or where something did not and ``strict`` is set."""
    left = [*report.missing, *report.unexpected]
    if report.matched and not (strict and left):
        return
    total = len(left) + len(report.matched)
    what = f"{len(left)} of its {total} layers do not" if report.matched else "none of its layers"
    known = ", ".join(registry.models(pipeline))
    raise BaseMismatch(
        f"{what} fit this {type(pipeline).__name__}",
        file=report.source,
        key=", ".join(left[:_SHOWN]) or None,
        expected=report.base,
        found=f"components {known}",
        hint="strict=False loads what fits" if report.matched else "Load it into a pipeline of the base it is made for",
    )


def check_new_name(pipeline: Any, name: object) -> None:
    """Raises UsageError for a name that is in use, or none for an adapter."""
    if not isinstance(name, str) or not name or "." in name:
        raise UsageError("an adapter's name is a text without dots", key="adapter_name", found=repr(name))
    if name in registry.by_name(pipeline):
        raise UsageError(
            "an adapter of this name is loaded",
            key=name,
            hint="Choose another adapter_name, delete_styleinject_adapters() first, or pass hotswap=True",
        )


def base_text(adapter: Adapter) -> str:
    """Architecture and, where known, repository of the base an adapter is for."""
    base = adapter.base_model
    return base.architecture if base.repo_id is None else f"{base.architecture}, {base.repo_id}"
