"""Pipeline classes of diffusers, one by one: an adapter of every component acts, and leaves the base as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures.folder import COMPONENT
from si_hub.pipelines import registry
from si_hub.storage.tensors import Tensor
from tests.pipelines.tiny import CLASSES, build
from tests.pipelines.tiny.left_out import list_left_out, render

#: Classes that every run of the suite builds, one for each way of building; the others are slow ones' together.
FIRST = [
    "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline", "FluxPipeline",
    "QwenImagePipeline", "WanPipeline", "LTX2Pipeline", "CogVideoXPipeline", "SanaPipeline",
]  # fmt: skip
#: Components beside denoisers and text encoders that a class's adapters may be for.
BESIDE = {"LTX2Pipeline": ["connectors"]}


def make_adapter(name: str, pipe: Any) -> Adapter:
    """A low-rank pair for every linear layer of every component that adapters are for."""
    draw = torch.Generator().manual_seed(4)
    components = {}
    for part, model in registry.models(pipe).items():
        if not COMPONENT.fullmatch(part) and part not in BESIDE.get(name, []):
            continue
        layers = {}
        for path, module in model.named_modules():
            if type(module) is nn.Linear and not path.startswith(("vision", "visual", "model.vi")):
                out, into = module.weight.shape
                down = torch.randn(2, into, generator=draw) / math.sqrt(into)
                pair = {"down.weight": down, "up.weight": 0.3 * torch.randn(out, 2, generator=draw)}
                layers[path] = Layer({leaf: Tensor.from_torch(value) for leaf, value in pair.items()}, alpha=2.0)
        components[part] = Component(type(model).__name__, layers)
    return Adapter(BaseModel(type(pipe).__name__), components)


def list_tensors(pipe: Any) -> dict[str, tuple[int, torch.Tensor]]:
    return {
        f"{part}.{key}": (id(value), value.detach().clone())
        for part, model in registry.models(pipe).items()
        for key, value in (*model.named_parameters(), *model.named_buffers())
    }


# Other libraries' own: of numpy's newest, of classes that diffusers has moved, of autocasting on a CPU.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*CPU autocast")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in CLASSES]
)
def test_adapters_of_every_component_act_and_leave_no_trace(name: str) -> None:
    tiny = build(name)
    pipe, before = tiny.pipe, list_tensors(tiny.pipe)
    base = tiny.draw()
    assert torch.isfinite(base).all()
    made = make_adapter(name, pipe)
    report = pipe.load_styleinject_weights(made, "ink", allow_components=BESIDE.get(name, []))
    assert len(report.matched) == sum(len(content.layers) for content in made.components.values())
    assert not torch.equal(tiny.draw(), base)
    for part in made.components:
        others = dict.fromkeys(made.components.keys() - {part}, 0.0)
        pipe.set_styleinject_adapters("ink", {part: 1.0, **others})
        assert not torch.equal(tiny.draw(), base), part
    pipe.unload_styleinject_weights()
    after = list_tensors(pipe)
    assert list(after) == list(before)
    assert all(after[key][0] == before[key][0] and torch.equal(after[key][1], before[key][1]) for key in before)
    assert torch.equal(tiny.draw(), base)


def test_every_class_is_built_or_left_out_for_a_reason_that_the_documentation_gives() -> None:
    page = (Path(__file__).parents[2] / "docs" / "PIPELINES.md").read_text(encoding="utf-8")
    if diffusers.__version__ == "0.42.1":
        assert render() in page
    assert list_left_out().keys().isdisjoint(CLASSES)
    assert len(CLASSES) >= 40
