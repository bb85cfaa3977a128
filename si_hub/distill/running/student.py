"""An adapter in a running pipeline whose numbers can be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from si_hub import tuner
from si_hub.adapter import Adapter, BaseModel, Component
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.storing import store
from si_hub.pipelines import loading, styles
from si_hub.tuner.door import find_door
from si_hub.tuner.injection import file_leaves, live_path

_NAME = "student"


class Student:
    """An adapter beside a runner's base weights, in float32.

    Args:
        runner: whose pipeline it goes into; it must have the base's weights whenever the student acts.
        components: the adapter's layers.
        branches: names of its branches, where it has several.

    Attributes:
        leaves: every trainable tensor by ``component.module.leaf``.
    """

    def __init__(self, runner: Runner, components: Mapping[str, Component], branches: Sequence[str] = ()) -> None:
        self.runner = runner
        runner.mix(0.0)
        adapter = Adapter(BaseModel("custom"), dict(components), tuple(branches))
        loading.load_adapter(
            runner.pipeline, adapter, _NAME, source=_NAME, low_cpu_mem_usage=False, strict=True, allowed=components
        )
        self.models: dict[str, nn.Module] = {name: getattr(runner.pipeline, name) for name in components}
        self.leaves: dict[str, nn.Parameter] = {}
        self._live: dict[tuple[str, str], str] = {}
        for component, model in self.models.items():
            door = find_door(model)
            assert door is not None
            paths = dict(model.named_modules())
            live = {path: live_path(paths, path) or path for path in components[component].layers}
            layers = {live[path]: layer for path, layer in components[component].layers.items()}
            self._live |= {(component, path): place for path, place in live.items()}
            for path, site in door.sites.items():
                for leaf, value in file_leaves(site.layer[_NAME]):
                    # What is loaded has the dtype of the layer that it goes into, which may be half precision.
                    exact = layers[path].tensors[leaf].torch() if leaf in layers[path].tensors else value.data
                    value.data = exact.to(value.device, torch.float32).reshape(value.shape).clone()
                    self.leaves[f"{component}.{path}.{leaf}"] = value
                    value.requires_grad_(True)

    def leaf_of(self, component: str, module: str, leaf: str) -> nn.Parameter | None:
        """The trainable tensor of a module by the name that the adapter has for it; ``None`` where there is none."""
        return self.leaves.get(f"{component}.{self._live.get((component, module))}.{leaf}")

    @contextmanager
    def away(self, runner: Runner) -> Iterator[None]:
        """The pipeline as the tuned model of one of its runners, without the student; then as it was."""
        for model in self.models.values():
            tuner.set_enabled(model, False)
        runner.mix(1.0)
        try:
            yield
        finally:
            runner.mix(0.0)
            for model in self.models.values():
                tuner.set_enabled(model, True)

    def choose(self, weights: Mapping[str, float] | None) -> None:
        """Override the routers of the branches; ``None`` gives them their work back."""
        styles.mix_styles(self.runner.pipeline, weights, [_NAME])

    def components(self, dtype: str) -> dict[str, Component]:
        """The adapter as it is now, its numbers but the routers' stored as ``dtype`` (safetensors' name)."""
        found = {}
        for name, model in self.models.items():
            component = tuner.extract(model, _NAME)
            found[name] = Component(component.class_name, dict(sorted(component.layers.items())))
        return store(found, dtype)

    def leave(self) -> None:
        """Take the student out of the pipeline."""
        loading.unload_adapters(self.runner.pipeline, [_NAME])
