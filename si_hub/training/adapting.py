"""The adapter that is trained, in a pipeline: ours, or PEFT's LoRA and DoRA by the same loop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from si_hub import tuner
from si_hub.adapter import Adapter, BaseModel
from si_hub.errors import UsageError
from si_hub.pipelines.saving import collect_adapter
from si_hub.storage.files import atomic_file
from si_hub.storage.tensors import Tensor, torch_names
from si_hub.training.settings import TEXT_TARGETS, TrainSettings
from si_hub.tuner.config import StyleInjectConfig
from si_hub.words import label

#: What the adapter is called in the pipeline.
_NAME = "trained"
#: The learning rate that is chosen: this divided by the median width of what the layers read, at most the second.
_RATE, _HIGHEST = 0.5, 1e-2


class Pupil:
    """An adapter in a pipeline whose numbers are trained.

    Args:
        pipeline: whose components get it.
        components: names of those: the denoiser first.
        settings: what it is like.
        branches: names of its branches; empty for unnamed ones.

    Attributes:
        models: the components by name.
        leaves: every trainable tensor, by component and name within it.

    Raises:
        UsageError: no module of a component is called as the settings say.
    """

    def __init__(
        self, pipeline: Any, components: Sequence[str], settings: TrainSettings, branches: Sequence[str] = ()
    ) -> None:
        self.pipeline, self.settings, self.branches = pipeline, settings, tuple(branches)
        self.models: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in components}
        self.leaves: dict[str, nn.Parameter] = {}
        for place, (name, model) in enumerate(self.models.items()):
            targets = settings.target_modules if place == 0 else list(TEXT_TARGETS)
            present = [end for end in targets if any(_ends(path, end) for path, _ in model.named_modules())]
            if not present:
                raise UsageError("has no module of these names", key=label("targets"), found=", ".join(targets),
                                 expected=f"ends of paths of modules of the {name}")  # fmt: skip
            # Adapters begin with random numbers of torch's one generator.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                model.add_adapter(self._config(present), adapter_name=_NAME)  # type: ignore[operator]
            for path, value in model.named_parameters():
                if value.requires_grad:
                    value.data = value.data.float()
                    self.leaves[f"{name}.{path}"] = value

    def _config(self, targets: list[str]) -> Any:
        settings = self.settings
        if settings.method == "styleinject":
            count = len(self.branches) or settings.branches
            return StyleInjectConfig(
                r=settings.rank, alpha=settings.alpha, num_branches=count, branches=list(self.branches) or None,
                transform=settings.transform, router=settings.router, target_modules=targets,
            )  # fmt: skip
        from peft import LoraConfig

        return LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha or settings.rank, target_modules=targets,
            use_dora=settings.method == "dora",
        )  # fmt: skip

    @property
    def modules(self) -> int:
        """How many modules are adapted."""
        ends = (".down.weight", ".down", "lora_A.trained.weight")
        return sum(1 for name in self.leaves if name.endswith(ends))

    @property
    def numbers(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.numel() for leaf in self.leaves.values())

    def rate(self) -> float:
        """A learning rate for layers of this width, where the settings name none."""
        if self.settings.rate is not None:
            return float(self.settings.rate)
        widths = sorted(
            leaf[0].numel() for name, leaf in self.leaves.items() if re.search(r"down|lora_A", name) and leaf.ndim > 1
        )
        middle = widths[len(widths) // 2] if widths else 1000
        return float(f"{min(_HIGHEST, _RATE / middle):.2g}")

    def choose(self, branch: str | None) -> None:
        """Let one branch act alone; ``None`` gives the routers their work back."""
        for model in self.models.values():
            tuner.set_styles(model, None if branch is None else {branch: 1.0}, [_NAME])

    @contextmanager
    def away(self) -> Iterator[None]:
        """The pipeline without the adapter while the block runs."""
        self._enable(False)
        try:
            yield
        finally:
            self._enable(True)

    def _enable(self, on: bool) -> None:
        for model in self.models.values():
            if self.settings.method == "styleinject":
                tuner.set_enabled(model, on)
            else:
                switch: Any = model.enable_adapters if on else model.disable_adapters
                switch()

    def adapter(self, base: BaseModel, about: Mapping[str, Any], dtype: str = "F32") -> Adapter:
        """The adapter as it is now, of the method styleinject.

        Args:
            base: what it is for.
            about: descriptive fields of its document.
            dtype: safetensors' name of its numbers; routers stay in float32.
        """
        found = collect_adapter(self.pipeline, _NAME, None, base)
        stored = {kind: name for name, kind in torch_names().items()}[dtype]
        for layer in (layer for component in found.components.values() for layer in component.layers.values()):
            layer.tensors = {
                leaf: tensor if leaf.startswith("router.") else Tensor.from_torch(tensor.torch().to(stored))
                for leaf, tensor in layer.tensors.items()
            }
        found.about = dict(about)
        return found

    def save_lora(self, file: Path, work: Path, *, overwrite: bool) -> None:
        """Writes PEFT's adapter as diffusers does, whole or not at all.

        Args:
            file: to write.
            work: a folder of ours for what is half-written.
            overwrite: whether the file may be there.
        """
        from peft.utils import get_peft_model_state_dict

        layers: dict[str, Any] = {}
        live: dict[str, Any] = dict(self.models)
        for name, model in live.items():
            layers[f"{name}_lora_layers"] = get_peft_model_state_dict(model, adapter_name=_NAME)
            layers[f"{name}_lora_adapter_metadata"] = model.peft_config[_NAME].to_dict()
        work.mkdir(parents=True, exist_ok=True)
        self.pipeline.save_lora_weights(work, weight_name="lora.safetensors", **layers)
        with atomic_file(file, overwrite) as out:
            out.write((work / "lora.safetensors").read_bytes())


def _ends(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")
