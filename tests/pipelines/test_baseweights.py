"""A pipeline's own weights, as the folder that it was saved to before anything happened to it has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn

from si_hub import architectures
from si_hub.architectures.bases import BASES, Base
from si_hub.architectures.known import rank_alike
from si_hub.errors import ConversionRefused
from si_hub.pipelines import baseweights
from si_hub.pipelines.baseweights import LiveParameter, LiveWeights, read_architecture

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")
TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def saved(pipe: Any, folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What the pipeline writes of its UNet and text encoder."""
    pipe.save_pretrained(folder)
    files = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
    found = {component: load_file(folder / component / name) for component, name in files.items()}
    # Text encoders are written with or without this, as transformers' version has it.
    found["text_encoder"] = {
        f"text_model.{name.removeprefix('text_model.')}": value for name, value in found["text_encoder"].items()
    }
    return found


def assert_reads(pipe: Any, expected: dict[str, dict[str, torch.Tensor]]) -> None:
    held = LiveWeights.of(pipe)
    assert set(held) == set(expected)
    for component, tensors in expected.items():
        mine = {name: one for name, one in held[component].items() if not name.endswith("position_ids")}
        assert mine.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert mine[name].shape == tuple(tensor.shape)
            assert torch.equal(mine[name].torch(), tensor), name


def test_they_are_the_saved_ones_whatever_adapters_are_in_fused_or_wrapped_around(
    sd: Make, lora: Make, adapter: Make, tmp_path: Path
) -> None:
    pipe = sd()
    expected = saved(pipe, tmp_path)
    assert_reads(pipe, expected)
    made = adapter(
        unet=lora(pipe.unet, ("to_q", "conv1")), text_encoder=lora(pipe.text_encoder, TEXT, prefix="text_model.")
    )
    pipe.load_styleinject_weights(made)
    assert_reads(pipe, expected)
    pipe.fuse_styleinject()
    assert not torch.equal(pipe.unet.get_submodule(TO_Q).weight, expected["unet"][f"{TO_Q}.weight"])
    assert_reads(pipe, expected)
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q", "conv2"], init_lora_weights=False, use_dora=True))
    assert_reads(pipe, expected)
    pipe.text_encoder.add_adapter(LoraConfig(target_modules=["q_proj"], modules_to_save=["fc2"]))
    assert_reads(pipe, expected)


def test_a_folder_and_the_pipeline_of_it_are_one_base_model(sd: Make, sdxl: Make, tmp_path: Path) -> None:
    for number, pipe in enumerate((sd(), sdxl())):
        pipe.save_pretrained(tmp_path / str(number))
        on_disk = architectures.from_folder(tmp_path / str(number))
        live = read_architecture(pipe, LiveWeights.of(pipe))
        assert (live.name, live.prediction_type) == (on_disk.name, on_disk.prediction_type)
        assert {name: (model.class_name, model.modules) for name, model in live.components.items()} == {
            name: (model.class_name, model.modules) for name, model in on_disk.components.items()
        }
        assert rank_alike(live) == []


def test_equal_models_are_one_so_that_names_are_looked_up_once(sd: Make) -> None:
    first, second = (read_architecture(pipe, LiveWeights.of(pipe)) for pipe in (sd(), sd()))
    assert first.components["unet"] is second.components["unet"]


def test_a_model_is_read_once_and_again_when_it_has_changed(sd: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sd()
    first = read_architecture(pipe, LiveWeights.of(pipe))
    with monkeypatch.context() as without:
        without.delattr(baseweights, "list_parameters")
        pipe.unet.add_adapter(LoraConfig(target_modules=["to_q", "conv2"], init_lora_weights=False))
        assert read_architecture(pipe, LiveWeights.of(pipe)) == first
        pipe.unet.delete_adapters("default")
        assert read_architecture(pipe, LiveWeights.of(pipe)) == first
    old = pipe.unet.conv_in
    pipe.unet.conv_in = torch.nn.Conv2d(9, old.out_channels, 3, padding=1)
    wider = read_architecture(pipe, LiveWeights.of(pipe))
    assert wider.components["unet"].modules["conv_in"].shape == (old.out_channels, 9, 3, 3)
    pipe.unet.conv_in.weight = torch.nn.Parameter(torch.zeros(old.out_channels, 5, 3, 3))
    narrower = read_architecture(pipe, LiveWeights.of(pipe))
    assert narrower.components["unet"].modules["conv_in"].shape == (old.out_channels, 5, 3, 3)
    pipe.unet.conv_in = old
    assert read_architecture(pipe, LiveWeights.of(pipe)) == first
    pipe.unet.conv_end = pipe.unet._modules.pop("conv_out")
    renamed = read_architecture(pipe, LiveWeights.of(pipe)).components["unet"].modules
    assert "conv_end" in renamed
    assert "conv_out" not in renamed


def test_projections_that_diffusers_fuses_and_other_inputs_leave_a_model_what_it_is() -> None:
    [base] = [base for base in BASES if base.name == "sdxl"]
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config({**base.components["unet"].config, "in_channels": 9})
    unet.fuse_qkv_projections()
    pipe = SimpleNamespace(components={"unet": unet})
    live = read_architecture(pipe, LiveWeights.of(pipe))
    assert live.components["unet"].modules["conv_in"].shape == (320, 9, 3, 3)
    assert rank_alike(live) == ["sdxl"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("base", BASES, ids=[base.name for base in BASES])
def test_every_shipped_base_is_known_by_its_live_denoisers(base: Base) -> None:
    pipe = SimpleNamespace(components={})
    for part, blueprint in base.denoisers().items():
        with torch.device("meta"):
            pipe.components[part] = getattr(diffusers, blueprint.class_name).from_config({**blueprint.config})
    found = read_architecture(pipe, LiveWeights.of(pipe))
    assert all(found.components[part] is architectures.load(base.name).components[part] for part in base.denoisers())
    ranked = rank_alike(found)
    # These have the same denoiser: nothing in a model tells them apart.
    twins = {"anima": "cosmos-predict2-2b", "ltx-2.3": "ltx-2.5"}
    twins |= {second: first for first, second in twins.items()}
    assert ranked[0] in (base.name, twins.get(base.name))


# Where weights are not in memory as they are.


@pytest.mark.parametrize("where", ["cpu", "disk", "cpu, whole attentions at once"])
def test_what_somebody_else_s_hooks_offload_is_read_from_where_they_keep_it(
    where: str, sd: Make, tmp_path: Path
) -> None:
    pipe = sd()
    expected = saved(pipe, tmp_path)
    for model in (pipe.unet, pipe.text_encoder):
        if where == "disk":
            accelerate.disk_offload(model, str(tmp_path / type(model).__name__), torch.device("cpu", 0))
        else:
            preload = ["Attention"] if "whole" in where else None
            accelerate.cpu_offload(model, torch.device("cpu", 0), preload_module_classes=preload)
    assert {value.device.type for value in pipe.unet.parameters()} == {"meta"}
    assert_reads(pipe, expected)


def test_what_diffusers_offloads_to_disk_is_refused_and_not_read_as_noise(sd: Make, tmp_path: Path) -> None:
    pipe = sd()
    pipe.unet.enable_group_offload(
        torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path)
    )
    held = LiveWeights.of(pipe)["unet"][f"{TO_Q}.weight"]
    with pytest.raises(ConversionRefused, match=rf"unet\.{TO_Q}\.weight: .*is offloaded to disk.*convert=FOLDER"):
        held.torch()


def test_what_is_on_meta_and_nowhere_is_refused(sd: Make) -> None:
    pipe = sd()
    pipe.unet.to("meta")
    with pytest.raises(ConversionRefused, match=r"offloaded to where it cannot be read.*before offloading"):
        LiveWeights.of(pipe)["unet"][f"{TO_Q}.weight"].torch()


class Packed(nn.Module):
    """A linear layer as quantisation leaves it: two numbers a byte, scales beside them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = base.in_features, base.out_features, base.bias
        self.weight = nn.Parameter(torch.zeros(base.weight.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
        self.register_buffer("absmax", torch.ones(4))


class Scaled(nn.Linear):
    """A linear layer of float8 numbers with a scale beside them."""


def quantise(pipe: Any, kind: str) -> None:
    block = pipe.unet.get_submodule(TO_Q.rpartition(".")[0])
    if kind == "packed":
        block.to_q = Packed(block.to_q)
    else:
        block.to_q.__class__ = Scaled
        block.to_q.weight = nn.Parameter(block.to_q.weight.to(torch.float8_e4m3fn), requires_grad=False)


@pytest.mark.parametrize("kind", ["packed", "scaled"])
def test_a_quantised_weight_has_its_shape_and_no_numbers(kind: str, sd: Make) -> None:
    pipe = sd()
    plain = LiveWeights.of(pipe)["unet"]
    quantise(pipe, kind)
    held: dict[str, LiveParameter] = dict(LiveWeights.of(pipe)["unet"])
    assert {name: one.shape for name, one in held.items()} == {name: one.shape for name, one in plain.items()}
    with pytest.raises(ConversionRefused, match=r"to_q\.weight: .*is quantised \((Packed|Scaled)\).*convert=FOLDER"):
        held[f"{TO_Q}.weight"].torch()


def test_float8_by_layerwise_casting_is_what_the_layer_computes_with(sd: Make) -> None:
    pipe = sd()
    before = pipe.unet.get_submodule(TO_Q).weight.detach().clone()
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    found = LiveWeights.of(pipe)["unet"][f"{TO_Q}.weight"].torch()
    assert torch.equal(found.float(), before.to(torch.float8_e4m3fn).float())
