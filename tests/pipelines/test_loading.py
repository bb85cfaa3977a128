"""Loading: what a user sees, and what a failure leaves behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from si_hub import format as file_format
from si_hub import tuner
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import BaseMismatch, MissingFile, NotFinite, UsageError
from si_hub.pipelines import loading, registry
from si_hub.storage.tensors import Tensor

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")


class Bare(DiffusionPipeline):
    """A pipeline of one model, without any mixin."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.register_modules(model=model)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)  # type: ignore[no-any-return]


def test_loading_changes_the_picture_and_unloading_restores_every_bit_and_object(
    sd: Make, lora: Make, adapter: Make, latents: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    before, picture = state(pipe), latents(pipe)
    modules = [id(module) for model in registry.models(pipe).values() for module in model.modules()]
    made = adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT))
    pipe.load_styleinject_weights(made)
    assert not torch.allclose(latents(pipe), picture, rtol=1e-2)
    pipe.unload_styleinject_weights()
    assert same(state(pipe), before)
    assert torch.equal(latents(pipe), picture)
    assert [id(module) for model in registry.models(pipe).values() for module in model.modules()] == modules
    assert pipe.get_list_styleinject_adapters() == {}


@pytest.mark.parametrize("name", ["", "a.b", 3])
def test_an_impossible_name_is_refused(name: object, sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    with pytest.raises(UsageError, match="without dots"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), name)


def test_a_name_in_use_is_refused_and_says_what_to_do(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "ink")
    with pytest.raises(UsageError, match=r"ink: an adapter of this name is loaded.*hotswap=True"):
        pipe.load_styleinject_weights(adapter(text_encoder=lora(pipe.text_encoder, TEXT)), "ink")


def test_a_file_that_matches_in_part_is_an_error_that_says_which_and_for_which_base(
    sd: Make, lora: Make, adapter: Make, noise: Make, merged: Make, error: Make
) -> None:
    pipe = sd()
    part = lora(pipe.unet)
    other = copy.copy(pipe)
    other.unet = merged(pipe.unet, part)
    expected = noise(other)
    strange = Component(None, {**part.layers, "conv_nowhere": next(iter(part.layers.values()))})
    strange.layers["conv_in"] = next(iter(part.layers.values()))
    with pytest.raises(
        BaseMismatch, match=r"unet\.conv_nowhere.*2 of its 26 layers do not fit.*expected sd15.*strict=False"
    ) as caught:
        pipe.load_styleinject_weights(adapter(unet=strange))
    assert caught.value.exit_code == 5
    report = pipe.load_styleinject_weights(adapter(unet=strange), strict=False)
    assert report.missing == ("unet.conv_nowhere",)
    assert [entry.split(":")[0] for entry in report.unexpected] == ["unet.conv_in"]
    assert len(report.matched) == 24
    assert error(noise(pipe), expected) < 1e-5


@pytest.mark.parametrize("absent", ["text_encoder", "text_encoder_2"])
def test_a_component_that_the_pipeline_lacks_counts_as_missing(
    absent: str, sd: Make, lora: Make, adapter: Make
) -> None:
    pipe = sd()
    part = lora(pipe.text_encoder, TEXT)
    pipe.text_encoder = None
    made = adapter(unet=lora(pipe.unet), **{absent: part})
    with pytest.raises(BaseMismatch, match=f"{absent}.encoder.layers.0"):
        pipe.load_styleinject_weights(made)
    report = pipe.load_styleinject_weights(made, strict=False)
    assert len(report.components[absent].missing) == 4
    assert pipe.get_list_styleinject_adapters() == {"unet": ["default_0"]}


def test_a_pipeline_without_any_lora_support_loads_too() -> None:
    pipe = Bare(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)))
    draw = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 6, generator=draw), torch.randn(5, 2, generator=draw)
    layer = Layer({"down.weight": Tensor.from_torch(down), "up.weight": Tensor.from_torch(up)}, alpha=1.0)
    x = torch.randn(3, 6, generator=draw)
    base = pipe(x)
    mine = Adapter(BaseModel("mine"), {"model": Component(None, {"0": layer})})
    pipe.load_styleinject_weights(mine, allow_components=["model"])
    first, last = pipe.model[0], pipe.model[2]
    hidden = torch.relu(x @ (first.weight + up @ down / 2).T + first.bias)
    assert torch.allclose(pipe(x), hidden @ last.weight.T + last.bias, atol=1e-5)
    pipe.unload_styleinject_weights()
    assert torch.equal(pipe(x), base)


def test_an_interrupt_while_loading_leaves_no_trace(
    sd: Make, lora: Make, adapter: Make, state: Make, same: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sd()
    before = state(pipe)
    inject = tuner.inject

    def interrupted(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if model is pipe.text_encoder:
            raise KeyboardInterrupt
        return inject(model, *args, **kwargs)

    monkeypatch.setattr(tuner, "inject", interrupted)
    made = adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, TEXT))
    with pytest.raises(KeyboardInterrupt):
        pipe.load_styleinject_weights(made)
    assert same(state(pipe), before)
    assert pipe.get_list_styleinject_adapters() == {}


def test_a_half_precision_base_gets_the_adapter_in_its_dtype_and_gives_it_back_in_its_own(
    sd: Make, lora: Make, adapter: Make, noise: Make, merged: Make, error: Make, tmp_path: Path
) -> None:
    pipe = sd()
    part = lora(pipe.unet)
    other = copy.copy(pipe)
    other.unet = merged(pipe.unet, part)
    expected = noise(other)
    pipe.unet.to(torch.bfloat16)
    written = file_format.write(adapter(unet=part), tmp_path / "styleinject.safetensors")
    pipe.load_styleinject_weights(written.path)
    assert {value.dtype for value in pipe.unet.parameters()} == {torch.bfloat16}
    assert error(noise(pipe), expected) < 0.05
    saved = pipe.save_styleinject_weights(tmp_path / "again")
    assert saved.path.read_bytes() == written.path.read_bytes()


@pytest.mark.parametrize("held", [(), ("text_encoder",)])
def test_finite_numbers_are_checked_in_embeddings_too(adapter: Make, held: tuple[str, ...]) -> None:
    vectors = torch.zeros(2, 24)
    vectors[1, 3] = float("inf")
    part = Component("CLIPTextModel", embeddings={"<cat>": Tensor.from_torch(vectors)})
    with pytest.raises(NotFinite, match=r"text_encoder\.embedding\.<cat>.*found 1 of 48"):
        loading.read_finite(adapter(text_encoder=part), "a file", held)


def test_values_are_read_once_and_given_once_and_what_is_not_finite_is_told_by_name(
    adapter: Make, tmp_path: Path
) -> None:
    down, up = torch.arange(6.0).reshape(2, 3), torch.ones(4, 2)
    layers = {"fc": Layer({"down.weight": Tensor.from_torch(down), "up.weight": Tensor.from_torch(up)})}
    path = file_format.write(adapter(unet=Component(None, layers)), tmp_path / "a.safetensors").path
    read = file_format.read(path)
    stored = read.components["unet"].layers["fc"].tensors["down.weight"]
    values = loading.read_finite(read, "a file", ["unet"])
    path.unlink()
    assert torch.equal(values.take(stored), down)
    with pytest.raises(MissingFile):
        values.take(stored)
    up[3, 1] = float("nan")
    layers["fc"].tensors["up.weight"] = Tensor.from_torch(up)
    with pytest.raises(NotFinite, match=r"unet\.fc\.up\.weight.*found 1 of 8"):
        loading.read_finite(adapter(unet=Component(None, layers)), "a file", ["unet"])
