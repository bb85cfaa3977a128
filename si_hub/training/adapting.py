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
from si_hub.training.dealing import deal_ranks, even_numbers, first_reads
from si_hub.training.settings import TEXT_TARGETS, TrainSettings
from si_hub.training.surveying import Pull
from si_hub.tuner.config import StyleInjectConfig
from si_hub.tuner.layer import CHILD
from si_hub.words import label

#: What the adapter is called in the pipeline.
_NAME = "trained"
#: The learning rate that is chosen: this divided by the median width of what the layers read, at most the second.
_RATE, _HIGHEST = 0.5, 5e-3


class Pupil:
    """An adapter in a pipeline whose numbers are trained.

    Args:
        pipeline: whose components get it.
        components: names of those: the denoiser first.
        settings: what it is like.
        branches: names of its branches; empty for unnamed ones.
        pulls: what a survey found in the denoiser; ranks and the first A_i follow it. None: one rank, random A_i.

    Attributes:
        models: the components by name.
        leaves: every trainable tensor, by component and name within it.
        chosen: the branch that acts alone; ``None`` where routers choose.

    Raises:
        UsageError: no module of a component is called as the settings say.
    """

    def __init__(
        self,
        pipeline: Any,
        components: Sequence[str],
        settings: TrainSettings,
        branches: Sequence[str] = (),
        pulls: Mapping[str, Pull] | None = None,
    ) -> None:
        self.pipeline, self.settings, self.branches = pipeline, settings, tuple(branches)
        self.models: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in components}
        self.leaves: dict[str, nn.Parameter] = {}
        self.chosen: str | None = None
        for place, (name, model) in enumerate(self.models.items()):
            targets = settings.target_modules if place == 0 else list(TEXT_TARGETS)
            ranks = None
            if place == 0 and pulls is not None:
                counted = {path: pull for path, pull in pulls.items() if _any_ends(path, settings.counted_modules)}
                budget = even_numbers(counted or pulls, settings.rank, self.count)
                ranks = deal_ranks(pulls, budget, self.count)
                present = sorted(ranks)
            else:
                present = [end for end in targets if any(_ends(path, end) for path, _ in model.named_modules())]
            if not present:
                raise no_module(targets, name)
            # Adapters begin with random numbers of torch's one generator.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                model.add_adapter(self._config(present, ranks or {}), adapter_name=_NAME)  # type: ignore[operator]
            if pulls is not None and ranks is not None:
                self._begin(model, pulls, ranks)
            for path, value in model.named_parameters():
                if value.requires_grad:
                    value.data = value.data.float()
                    self.leaves[f"{name}.{path}"] = value

    @property
    def count(self) -> int:
        """n: how many branches there are."""
        return len(self.branches) or (self.settings.branches if self.settings.method == "styleinject" else 1)

    def _begin(self, model: nn.Module, pulls: Mapping[str, Pull], ranks: Mapping[str, int]) -> None:
        """The first A_i: what pulls most."""
        leaf = f"{CHILD}.{_NAME}.down" if self.settings.method == "styleinject" else f"lora_A.{_NAME}"
        for path, rank in ranks.items():
            down: Any = model.get_submodule(f"{path}.{leaf}")
            down.weight.data.copy_(first_reads(pulls[path], rank, self.count, down.weight.data))

    def _config(self, targets: list[str], ranks: Mapping[str, int]) -> Any:
        settings = self.settings
        # One scale, whatever rank a module has.
        scale = (settings.alpha or settings.rank) / settings.rank
        alphas = {path: scale * rank for path, rank in ranks.items()}
        if settings.method == "styleinject":
            return StyleInjectConfig(
                r=settings.rank, alpha=settings.alpha, num_branches=self.count, branches=list(self.branches) or None,
                transform=settings.transform, router=settings.router, target_modules=targets,
                rank_pattern=dict(ranks), alpha_pattern=alphas if settings.alpha else {},
            )  # fmt: skip
        from peft import LoraConfig

        return LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha or settings.rank, target_modules=targets,
            use_dora=settings.method == "dora", rank_pattern=dict(ranks), alpha_pattern=alphas,
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
            leaf.shape[1] for name, leaf in self.leaves.items() if re.search(r"down|lora_A", name) and leaf.ndim > 1
        )
        middle = widths[len(widths) // 2] if widths else 1000
        return float(f"{min(_HIGHEST, _RATE / middle):.2g}")

    def choose(self, branch: str | None) -> None:
        """Let one branch act alone; ``None`` gives the routers their work back."""
        self.chosen = branch
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


def surveyed_modules(model: nn.Module, settings: TrainSettings) -> dict[str, nn.Module]:
    """The linear layers and convolutions of a denoiser that may get a rank, by path.

    Raises:
        UsageError: no module is called as the settings say.
    """
    found: dict[str, nn.Module] = {
        path: module for path, module in model.named_modules()
        if _any_ends(path, settings.target_modules) and isinstance(module, nn.Linear | nn.Conv2d)
        and getattr(module, "groups", 1) == 1
    }  # fmt: skip
    if not found:
        raise no_module(settings.target_modules, type(model).__name__)
    return found


def no_module(targets: Sequence[str], name: str) -> UsageError:
    return UsageError(
        "has no module of these names", key=label("targets"), found=", ".join(targets),
        expected=f"ends of paths of modules of the {name}",
    )  # fmt: skip


def _any_ends(path: str, ends: Sequence[str]) -> bool:
    return any(_ends(path, end) for end in ends)


def _ends(path: str, end: str) -> bool:
    return path == end or path.endswith(f".{end}")
