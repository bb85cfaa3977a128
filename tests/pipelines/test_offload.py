"""Offload hooks, casting and device maps, as far as a machine without an accelerator shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, CpuOffload

from si_hub.errors import BaseMismatch

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")


@pytest.fixture(autouse=True)
def _cpu_is_not_cpu_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers asks for "cpu:0"; between that and "cpu" accelerate copies and loses the parameter's class."""
    original = accelerate.cpu_offload

    def on_cpu(model: Any, device: torch.device, **options: Any) -> Any:
        return original(model, torch.device(device.type), **options)

    monkeypatch.setattr(accelerate, "cpu_offload", on_cpu)


@pytest.fixture
def both(sd: Make, lora: Make, adapter: Make, latents: Make) -> Any:
    """(a pipeline, an adapter for it, its picture without and with)."""
    pipe = sd()
    made = adapter(
        unet=lora(pipe.unet, ("to_q", "conv1")), text_encoder=lora(pipe.text_encoder, TEXT, prefix="text_model.")
    )
    base = latents(pipe)
    pipe.load_styleinject_weights(made)
    shown = latents(pipe)
    pipe.unload_styleinject_weights()
    assert not torch.equal(base, shown)
    return pipe, made, base, shown


@pytest.mark.parametrize(
    ("enable", "hook"),
    [("enable_sequential_cpu_offload", AlignDevicesHook), ("enable_model_cpu_offload", CpuOffload)],
)
def test_cpu_offload_hooks_are_taken_off_and_put_back(enable: str, hook: type, both: Any, latents: Make) -> None:
    pipe, made, base, shown = both
    getattr(pipe, enable)(device="cpu")

    def hooked() -> bool:
        hooks = [getattr(pipe.unet, "_hf_hook", None), getattr(pipe.text_encoder, "_hf_hook", None)]
        return all(isinstance(single, hook) for found in hooks for single in getattr(found, "hooks", [found]))

    assert hooked()
    assert torch.equal(latents(pipe), base)
    pipe.load_styleinject_weights(made, "a")
    assert hooked()
    assert torch.equal(latents(pipe), shown)
    with pytest.raises(BaseMismatch):
        pipe.load_styleinject_weights(made.__class__(made.base_model, {"transformer": made.components["unet"]}), "b")
    assert hooked()
    pipe.fuse_styleinject()
    assert torch.allclose(latents(pipe), shown, atol=1e-4)
    pipe.unfuse_styleinject()
    pipe.unload_styleinject_weights()
    assert hooked()
    assert torch.equal(latents(pipe), base)


def test_offloaded_weights_include_the_adapter_s(both: Any) -> None:
    pipe, made, _, _ = both
    pipe.enable_sequential_cpu_offload(device="cpu")
    pipe.load_styleinject_weights(made, "a")
    assert {value.device.type for value in pipe.unet.parameters()} == {"meta"}
    assert any("layer.a.down" in key for key, _ in pipe.unet.named_parameters())


def test_saving_works_under_sequential_offload(both: Any, tmp_path: Any) -> None:
    from si_hub import format as file_format

    pipe, made, _, _ = both
    pipe.enable_sequential_cpu_offload(device="cpu")
    pipe.load_styleinject_weights(made, "a")
    written = pipe.save_styleinject_weights(tmp_path)
    assert written.path.read_bytes() == file_format.write(made, tmp_path / "plain").path.read_bytes()
    assert {value.device.type for value in pipe.unet.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_knows_the_adapter_s_tensors(kind: str, both: Any, noise: Make) -> None:
    pipe, made, _, _ = both
    base = noise(pipe)
    pipe.load_styleinject_weights(made)
    shown = noise(pipe)
    pipe.unload_styleinject_weights()
    options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type=kind, **options)
    assert torch.equal(noise(pipe), base)
    pipe.load_styleinject_weights(made, "a")
    assert torch.equal(noise(pipe), shown)
    if kind == "leaf_level":
        leaves = [leaf for path, leaf in pipe.unet.named_modules() if path.endswith(("layer.a.down", "layer.a.up"))]
        assert leaves
        assert all(leaf._diffusers_hook.get_hook("group_offloading") is not None for leaf in leaves)
    pipe.unload_styleinject_weights()
    assert torch.equal(noise(pipe), base)


@pytest.mark.parametrize("order", ["cast first", "load first"])
def test_under_layerwise_casting_the_adapter_keeps_its_precision(order: str, both: Any, noise: Make) -> None:
    pipe, made, _, _ = both

    def cast() -> None:
        pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)

    if order == "load first":
        pipe.load_styleinject_weights(made, "a")
        cast()
    else:
        cast()
        pipe.load_styleinject_weights(made, "a")
    layer = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    assert layer.weight.dtype == torch.float8_e4m3fn
    noise(pipe)
    expected = made.components["unet"].layers["down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"]
    down = layer.styleinject_layer.adapters["a"].down.weight
    assert torch.equal(down, expected.tensors["down.weight"].torch())
    pipe.disable_styleinject()
    base = noise(pipe)
    pipe.enable_styleinject()
    assert not torch.allclose(noise(pipe), base, atol=1e-3)
    assert torch.isfinite(noise(pipe)).all()


@pytest.mark.parametrize("mapped", [True, False])
def test_hooks_of_a_device_map_or_of_the_user_are_not_touched(mapped: bool, both: Any, latents: Make) -> None:
    from accelerate import dispatch_model

    pipe, made, _, shown = both
    dispatch_model(pipe.unet, {"": "cpu"}, force_hooks=True)
    pipe.hf_device_map = {"unet": "cpu"} if mapped else None
    hook = pipe.unet._hf_hook
    pipe.load_styleinject_weights(made, "a")
    assert pipe.unet._hf_hook is hook
    assert torch.equal(latents(pipe), shown)
