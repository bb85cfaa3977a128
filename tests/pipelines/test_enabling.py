"""enable(): which classes get which names."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, ModularPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.modular_pipelines import ComponentSpec, ModularPipelineBlocks

import si_hub
from si_hub.pipelines import StyleInjectLoaderMixin

NAMES = [
    "load_styleinject_weights", "styleinject_state_dict", "unload_styleinject_weights", "save_styleinject_weights",
    "set_styleinject_adapters", "set_styles", "get_list_styleinject_adapters", "get_active_styleinject_adapters",
    "enable_styleinject", "disable_styleinject", "delete_styleinject_adapters", "set_styleinject_device",
    "fuse_styleinject", "unfuse_styleinject", "num_fused_styleinject", "fused_styleinject",
    "enable_styleinject_hotswap", "enable_styleinject_cache", "bake_styleinject", "styleinject",
]  # fmt: skip


def test_every_diffusers_pipeline_has_every_method_and_they_are_the_mixin_s() -> None:
    public = {name for name in vars(StyleInjectLoaderMixin) if not name.startswith("_")}
    assert public == set(NAMES)
    classes = [getattr(diffusers, name) for name in ("FluxPipeline", "WanPipeline", "LTXPipeline", "DDPMPipeline")]
    for cls in [DiffusionPipeline, ModularPipeline, StableDiffusionPipeline, *classes]:
        for name in NAMES:
            own = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
            assert own is vars(StyleInjectLoaderMixin)[name]


def test_enabling_twice_changes_nothing() -> None:
    before = {cls: dict(vars(cls)) for cls in (DiffusionPipeline, ModularPipeline)}
    si_hub.enable()
    assert {cls: dict(vars(cls)) for cls in before} == before


def test_a_method_of_diffusers_own_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(self: Any) -> None:
        """diffusers' own, one day."""

    for name in NAMES:
        monkeypatch.delattr(ModularPipeline, name)
    monkeypatch.setattr(ModularPipeline, "set_styles", own, raising=False)
    with pytest.raises(RuntimeError, match=r"ModularPipeline.*set_styles"):
        si_hub.enable()
    assert ModularPipeline.set_styles is own
    assert not hasattr(ModularPipeline, "load_styleinject_weights")


def test_diffusers_defines_none_of_the_names_itself() -> None:
    for cls in (DiffusionPipeline, ModularPipeline):
        for name in NAMES:
            assert [base for base in cls.__mro__ if name in vars(base)] == [cls]


def test_a_class_that_inherits_the_mixin_needs_no_enable() -> None:
    class Mine(StyleInjectLoaderMixin, StableDiffusionPipeline):
        pass

    assert Mine.load_styleinject_weights is StyleInjectLoaderMixin.load_styleinject_weights
    assert Mine.set_adapters is StableDiffusionPipeline.set_adapters


def test_a_modular_pipeline_loads_too(sd: Any, lora: Any, adapter: Any, noise: Any) -> None:
    class Blocks(ModularPipelineBlocks):
        @property
        def expected_components(self) -> list[Any]:
            return [ComponentSpec("unet", UNet2DConditionModel)]

    pipe = Blocks().init_pipeline()
    pipe.update_components(unet=sd().unet)
    base = noise(pipe)
    report = pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    assert len(report.matched) == 24
    assert not torch.equal(noise(pipe), base)
    pipe.unload_styleinject_weights()
    assert torch.equal(noise(pipe), base)
