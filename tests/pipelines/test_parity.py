"""What diffusers offers for LoRA and what answers to it here, side by side: a row a test."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from si_hub import format as file_format
from si_hub.errors import UsageError
from tests.pipelines.test_classes import make_adapter
from tests.pipelines.tiny import build

Make = Callable[..., Any]
TARGETS = ("to_q", "to_v", "conv1")
KEY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config`", "ignore:All adapters are already")


@pytest.fixture
def both(sd: Make, lora: Make, adapter: Make, as_lora: Make) -> tuple[Any, Any]:
    """Two pipelines with the same two low-rank changes, ``ink`` and ``neon``: theirs as LoRAs, ours as StyleInject."""
    theirs, ours = sd(), sd()
    parts = [lora(sd().unet, TARGETS, alpha=None, seed=seed) for seed in (0, 1)]
    for name, part in zip(("ink", "neon"), parts, strict=True):
        theirs.load_lora_weights(as_lora(part, "unet"), adapter_name=name)
        ours.load_styleinject_weights(adapter(unet=part), adapter_name=name)
    return theirs, ours


def test_load_has_the_keywords_of_load_lora_weights_and_knows_no_others(sd: Make, lora: Make, adapter: Make) -> None:
    keywords = {*inspect.signature(StableDiffusionPipeline.load_styleinject_weights).parameters}
    theirs = {*inspect.signature(StableDiffusionPipeline.load_lora_weights).parameters} - {"kwargs", "self"}
    fetched = {"cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "weight_name"}
    assert theirs | fetched | {"low_cpu_mem_usage", "hotswap", "metadata"} <= keywords
    pipe = sd()
    with pytest.raises(TypeError, match="adaptername"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), adaptername="a")


def test_the_newest_adapter_is_the_only_active_one(both: tuple[Any, Any], noise: Make, error: Make) -> None:
    theirs, ours = both
    assert ours.get_active_styleinject_adapters() == ["neon"]
    theirs.set_adapters("neon")
    assert error(noise(ours), noise(theirs)) < 1e-5


def test_a_state_dict_needs_no_pipeline_object(sd: Make, lora: Make, adapter: Make, tmp_path: Path) -> None:
    pipe = sd()
    made = adapter(unet=lora(pipe.unet))
    file = file_format.write(made, tmp_path / "a.safetensors").path
    state = StableDiffusionPipeline.styleinject_state_dict(tmp_path, weight_name="a.safetensors")
    assert set(state) == set(StableDiffusionPipeline.styleinject_state_dict(file))
    assert len(pipe.load_styleinject_weights(state, metadata=state.metadata).matched) == 24


def test_unload_gives_back_the_base(both: tuple[Any, Any], sd: Make, state: Make, same: Make) -> None:
    _, ours = both
    ours.unload_styleinject_weights()
    assert same(state(ours), state(sd()))
    assert ours.get_list_styleinject_adapters() == {}


WEIGHTS: dict[str, Any] = {
    "a number": 0.4,
    "a list": [0.7, -0.4],
    "by component": [{"unet": 0.3}, {"unet": 0.3}],
    "by component and a number": [{"unet": 0.3}, 1.2],
    "by block": [{"unet": {"up": {"block_0": 0.2}, "mid": 0.6, "down": {"block_1": 1.1}}}, 0.5],
}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_are_given_as_set_adapters_is_given_them(
    weights: str, sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, error: Make
) -> None:
    """On attention, which is what diffusers weighs by block."""
    theirs, ours = sd(), sd()
    for seed, name in enumerate(("ink", "neon")):
        part = lora(sd().unet, ("to_q", "to_v"), alpha=None, seed=seed)
        theirs.load_lora_weights(as_lora(part, "unet"), adapter_name=name)
        ours.load_styleinject_weights(adapter(unet=part), adapter_name=name)
    theirs.set_adapters(["ink", "neon"], copy.deepcopy(WEIGHTS[weights]))
    ours.set_styleinject_adapters(["ink", "neon"], WEIGHTS[weights])
    assert error(noise(ours), noise(theirs)) < 1e-5


def test_one_table_for_two_adapters_is_for_both(both: tuple[Any, Any], noise: Make, error: Make) -> None:
    """Theirs takes the table apart while it reads it, so that the second adapter gets 1.0."""
    theirs, ours = both
    theirs.set_adapters(["ink", "neon"], {"unet": 0.3})
    assert theirs.unet.get_submodule(KEY).scaling == {"ink": 0.3, "neon": 1.0}
    ours.set_styleinject_adapters(["ink", "neon"], {"unet": 0.3})
    theirs.set_adapters(["ink", "neon"], 0.3)
    assert error(noise(ours), noise(theirs)) < 1e-5


def test_adapters_are_listed_and_switched_as_loras_are(both: tuple[Any, Any], noise: Make, error: Make) -> None:
    theirs, ours = both
    theirs.set_adapters(["ink", "neon"], [0.7, 0.2])
    ours.set_styleinject_adapters(["ink", "neon"], [0.7, 0.2])
    assert ours.get_list_styleinject_adapters() == theirs.get_list_adapters() == {"unet": ["ink", "neon"]}
    assert ours.get_active_styleinject_adapters() == theirs.get_active_adapters() == ["ink", "neon"]
    shown = noise(ours)
    theirs.disable_lora()
    ours.disable_styleinject()
    assert torch.equal(noise(ours), noise(theirs))
    theirs.enable_lora()
    ours.enable_styleinject()
    assert torch.equal(noise(ours), shown)
    theirs.delete_adapters("ink")
    ours.delete_styleinject_adapters("ink")
    assert error(noise(ours), noise(theirs)) < 1e-5
    ours.set_styleinject_device("neon", "cpu")
    theirs.set_lora_device(["neon"], "cpu")
    assert error(noise(ours), noise(theirs)) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_class_without_loras_of_its_own_lists_switches_and_deletes_too() -> None:
    tiny = build("LattePipeline")
    pipe, base = tiny.pipe, tiny.draw()
    assert not hasattr(pipe, "load_lora_weights")
    made = make_adapter("LattePipeline", pipe)
    for name in ("ink", "neon"):
        pipe.load_styleinject_weights(made, name)
    pipe.set_styleinject_adapters(["ink", "neon"], [0.5, 0.5])
    assert pipe.get_active_styleinject_adapters() == ["ink", "neon"]
    assert pipe.get_list_styleinject_adapters() == {
        "text_encoder": ["ink", "neon"],
        "transformer": ["ink", "neon"],
    }
    pipe.disable_styleinject()
    assert torch.equal(tiny.draw(), base)
    pipe.enable_styleinject()
    pipe.set_styleinject_device(["ink", "neon"], "cpu")
    pipe.delete_styleinject_adapters("ink")
    assert not torch.equal(tiny.draw(), base)
    pipe.fuse_styleinject(components=["transformer"])
    assert pipe.num_fused_styleinject == 1
    pipe.unfuse_styleinject()
    pipe.unload_styleinject_weights()
    assert torch.equal(tiny.draw(), base)


def test_fusing_gives_the_weights_that_fuse_lora_gives(both: tuple[Any, Any], error: Make) -> None:
    theirs, ours = both
    before = ours.unet.get_submodule(KEY).weight.detach().clone()
    theirs.set_adapters("ink")  # Theirs scales active ones alone.
    theirs.fuse_lora(components=["unet"], lora_scale=0.5, safe_fusing=True, adapter_names=["ink"])
    ours.fuse_styleinject(components=["unet"], scale=0.5, safe_fusing=True, adapter_names=["ink"])
    change = ours.unet.get_submodule(KEY).weight - before
    assert error(change, theirs.unet.get_submodule(KEY).base_layer.weight - before) < 1e-5
    assert ours.num_fused_styleinject == theirs.num_fused_loras == 1
    assert {*ours.fused_styleinject} == {*theirs.fused_loras} == {"ink"}
    ours.unfuse_styleinject()
    assert torch.equal(ours.unet.get_submodule(KEY).weight, before)
    assert ours.num_fused_styleinject == 0


def test_a_call_s_scale_is_theirs(both: tuple[Any, Any], latents: Make, error: Make) -> None:
    theirs, ours = both
    theirs.set_adapters("neon")
    for scale in (0.3, 1.0):
        options = {"cross_attention_kwargs": {"scale": scale}}
        assert error(latents(ours, **options), latents(theirs, **options)) < 1e-4


def test_what_is_saved_is_loaded_again(both: tuple[Any, Any], sd: Make, noise: Make, tmp_path: Path) -> None:
    _, ours = both
    shown = noise(ours)
    ours.save_styleinject_weights(tmp_path, "neon")
    other = sd()
    other.load_styleinject_weights(tmp_path)
    assert torch.equal(noise(other), shown)


def test_a_hotswap_keeps_every_tensor_where_it_is(
    sd: Make, lora: Make, adapter: Make, as_lora: Make, noise: Make, error: Make
) -> None:
    theirs, ours = sd(), sd()
    small, large = (lora(sd().unet, TARGETS, rank=rank, alpha=None, seed=rank) for rank in (2, 3))
    theirs.enable_lora_hotswap(target_rank=4)
    ours.enable_styleinject_hotswap(target_rank=4)
    theirs.load_lora_weights(as_lora(small, "unet"), adapter_name="a")
    ours.load_styleinject_weights(adapter(unet=small), "a")
    held = {key: value.data_ptr() for key, value in ours.unet.named_parameters()}
    theirs.load_lora_weights(as_lora(large, "unet"), adapter_name="a", hotswap=True)
    ours.load_styleinject_weights(adapter(unet=large), "a", hotswap=True)
    assert {key: value.data_ptr() for key, value in ours.unet.named_parameters()} == held
    assert error(noise(ours), noise(theirs)) < 1e-5


def test_the_scale_of_a_fusion_may_be_called_as_diffusers_calls_it(both: tuple[Any, Any]) -> None:
    _, ours = both
    ours.fuse_styleinject(scale=0.5)
    expected = ours.unet.get_submodule(KEY).weight.detach().clone()
    ours.unfuse_styleinject()
    with pytest.warns(UserWarning, match="lora_scale= is called scale= here"):
        ours.fuse_styleinject(lora_scale=0.5)
    assert torch.equal(ours.unet.get_submodule(KEY).weight, expected)
    with pytest.raises(UsageError, match=r"lora_scale: is given as scale= too"):
        ours.bake_styleinject(scale=0.5, lora_scale=0.5)
