"""Somebody else's adapter in one line: which base it is for, what it is a function of, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import si_hub
from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures.bases import BASES
from si_hub.errors import BaseMismatch, ConversionRefused
from si_hub.pipelines import converting, registry
from si_hub.pipelines.sources import FoundAdapter
from si_hub.storage.tensors import Computed, Tensor
from si_hub.tuner.door import find_door
from tests.miniature import BASE, KOHYA_LORA
from tests.pipelines.test_baseweights import Packed

Make = Callable[..., Any]
PEERS = KOHYA_LORA.parent
DORA, LOHA = PEERS / "lycoris_dora.safetensors", PEERS / "lycoris_loha.safetensors"


@pytest.fixture
def miniature() -> Any:
    return StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)


@pytest.fixture
def sd15(sd: Make) -> Any:
    """A pipeline whose UNet is Stable Diffusion's by its modules; it takes no memory."""
    pipe = sd()
    [base] = [base for base in BASES if base.name == "sd15"]
    with torch.device("meta"):
        pipe.unet = diffusers.UNet2DConditionModel.from_config({**base.components["unet"].config})
    return pipe


def write_lora(file: Path, *stems: str, width: int = 320, **metadata: str) -> Path:
    tensors: dict[str, torch.Tensor] = {}
    for stem in stems or ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",):
        tensors |= {f"{stem}.lora_down.weight": torch.ones(4, width), f"{stem}.lora_up.weight": torch.ones(width, 4)}
    save_file(tensors, file, metadata)
    return file


def read_loaded(pipe: Any, name: str) -> dict[str, torch.Tensor]:
    """Every tensor of a loaded adapter, as it was converted."""
    held = [registry.sources(model).get(name) for model in registry.models(pipe).values()]
    [adapter] = {id(one): one for one in held if one is not None}.values()
    return {
        f"{component}.{path}.{leaf}": tensor.torch()
        for component, content in adapter.components.items()
        for path, layer in content.layers.items()
        for leaf, tensor in layer.tensors.items()
    }


# Which base.


def test_the_pipeline_settles_what_the_file_leaves_open(sd15: Any, tmp_path: Path) -> None:
    """One attention of this width is in two versions of Stable Diffusion and more."""
    file = write_lora(tmp_path / "lora.safetensors")
    with pytest.raises(si_hub.errors.AmbiguousFamily):
        si_hub.convert(file)
    report = sd15.load_styleinject_weights(file)
    assert report.base == "sd15"
    assert report.matched == ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",)
    assert report.notes == ("converted in memory, exactly: lora for sd15 (lora_unet_ diffusers)",)


def test_metadata_that_name_another_base_than_the_pipeline_are_an_error_that_shows_both(
    sd15: Any, tmp_path: Path
) -> None:
    file = write_lora(tmp_path / "lora.safetensors", ss_base_model_version="sd_v2", ss_v2="True")
    with pytest.raises(
        BaseMismatch, match=r"another base model than this StableDiffusionPipeline.*sd15.*sd_v2.*convert='sd15'"
    ):
        sd15.load_styleinject_weights(file)
    assert sd15.get_list_styleinject_adapters() == {}
    assert sd15.load_styleinject_weights(file, convert="sd15").matched
    agreeing = write_lora(tmp_path / "agreeing.safetensors", ss_base_model_version="sd_v1", ss_v2="False")
    assert sd15.load_styleinject_weights(agreeing).matched


def test_what_is_for_another_base_is_told_which(miniature: Any, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "lora.safetensors", "lora_unet_single_blocks_3_modulation_lin", width=3072)
    tensors = {name: value.repeat(3, 1) if "up" in name else value for name, value in load_file(file).items()}
    save_file(tensors, file)
    with pytest.raises(BaseMismatch, match=r"by names and shapes it is for flux.*a pipeline of the base"):
        miniature.load_styleinject_weights(file)
    strange = write_lora(tmp_path / "strange.safetensors", "lora_unet_nowhere_to_be_found")
    with pytest.raises(BaseMismatch, match="none of its 1 modules is in StableDiffusionPipeline"):
        miniature.load_styleinject_weights(strange)
    assert miniature.get_list_styleinject_adapters() == {}


def test_a_lora_for_text_encoders_too_loads_without_them_where_that_is_said(miniature: Any) -> None:
    miniature.text_encoder = None
    with pytest.raises(BaseMismatch, match=r"modules are not in StableDiffusionPipeline.*strict=False"):
        miniature.load_styleinject_weights(KOHYA_LORA)
    report = miniature.load_styleinject_weights(KOHYA_LORA, strict=False)
    of_text = sum(name.startswith("lora_te") for name in load_file(KOHYA_LORA))
    assert report.notes[0].startswith(f"converted in memory, {of_text} tensors left out: lora")
    assert any("has no such module" in note for note in report.notes)
    assert list(report.components) == ["unet"]


# What it is a function of.


@pytest.mark.parametrize("file", [DORA, LOHA, KOHYA_LORA], ids=lambda file: str(file.stem))
def test_what_is_saved_again_is_what_convert_writes_for_the_folder(file: Path, miniature: Any, tmp_path: Path) -> None:
    miniature.load_styleinject_weights(file)
    saved = miniature.save_styleinject_weights(tmp_path)
    written = si_hub.convert(file, tmp_path / "converted.safetensors", base=BASE)
    assert saved.tensors_sha256 == written.sha256
    assert saved.identity == written.identity


@pytest.mark.filterwarnings("ignore:default_0. what was fused is taken out")
def test_an_adapter_is_a_function_of_the_base_without_other_adapters(miniature: Any) -> None:
    miniature.load_styleinject_weights(DORA, "alone")
    alone = read_loaded(miniature, "alone")
    miniature.unload_styleinject_weights()
    miniature.load_lora_weights(PEERS, weight_name="peft_lora.safetensors")
    miniature.load_styleinject_weights(KOHYA_LORA, "fused")
    miniature.fuse_styleinject()
    miniature.load_styleinject_weights(DORA, "beside")
    beside = read_loaded(miniature, "beside")
    assert alone.keys() == beside.keys()
    assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_it_loads_into_a_pipeline_that_is_offloaded(miniature: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = accelerate.cpu_offload
    monkeypatch.setattr(
        accelerate, "cpu_offload",
        lambda model, device, **options: original(model, torch.device(device.type), **options),
    )  # fmt: skip
    miniature.load_styleinject_weights(DORA, "a")
    plain = read_loaded(miniature, "a")
    miniature.unload_styleinject_weights()
    miniature.enable_sequential_cpu_offload(device="cpu")
    miniature.load_styleinject_weights(DORA, "a")
    offloaded = read_loaded(miniature, "a")
    assert all(torch.equal(plain[name], offloaded[name]) for name in plain)


def test_a_quantised_base_takes_a_lora_and_for_a_dora_a_folder_of_its_weights(miniature: Any) -> None:
    path = next(path for path, _ in miniature.unet.named_modules() if path.endswith("attn1.to_q"))
    parent = miniature.unet.get_submodule(path.rpartition(".")[0])
    parent.to_q = Packed(parent.to_q)
    with pytest.raises(ConversionRefused, match=rf"unet\.{path}\.weight: .*is quantised \(Packed\).*convert=FOLDER"):
        miniature.load_styleinject_weights(DORA)
    assert miniature.get_list_styleinject_adapters() == {}
    miniature.load_styleinject_weights(KOHYA_LORA, "lora")
    report = miniature.load_styleinject_weights(DORA, "dora", convert=BASE)
    assert f"unet.{path}" in report.matched


def test_a_foreign_adapter_takes_another_s_place(miniature: Any, tmp_path: Path) -> None:
    first, second = PEERS / "peft_lora.safetensors", tmp_path / "second.safetensors"
    tensors = {name: -value if "lora_B" in name else value for name, value in load_file(first).items()}
    save_file(tensors, second)
    miniature.load_styleinject_weights(first, "style")
    door: Any = find_door(miniature.unet)
    [up, *_] = [layer["style"].up for _, layer in door.layers()]
    before = up.weight.detach().clone()
    report = miniature.load_styleinject_weights(second, "style", hotswap=True)
    assert report.notes[0].startswith("converted in memory, exactly")
    assert before.abs().max() > 0
    assert torch.equal(up.weight, -before)


# What is computed.


def test_more_than_a_limit_is_computed_anew_whenever_it_is_read(
    miniature: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = converting.convert_for_pipeline(miniature, FoundAdapter(LOHA, "")).adapter
    assert not any(isinstance(piece, Computed) for tensor in _tensors(kept) for piece in tensor.pieces)
    monkeypatch.setattr(converting, "MOST_KEPT", 100_000)
    anew = converting.convert_for_pipeline(miniature, FoundAdapter(LOHA, "")).adapter
    assert any(isinstance(piece, Computed) for tensor in _tensors(anew) for piece in tensor.pieces)
    assert [tensor.tobytes() for tensor in _tensors(kept)] == [tensor.tobytes() for tensor in _tensors(anew)]


def test_the_parts_of_a_fused_module_are_computed_together() -> None:
    asked = []

    def compute() -> torch.Tensor:
        asked.append(1)
        return torch.arange(12.0).reshape(6, 2)

    whole = Tensor.compute((6, 2), compute)
    layers = {f"block.{number}": Layer({"weight_delta": whole.rows(2 * number, 2 * number + 2)}) for number in range(3)}
    kept = converting.keep_computed(Adapter(BaseModel("sd15"), {"unet": Component(None, layers)}))
    assert len(asked) == 1
    assert [float(tensor.torch().sum()) for tensor in _tensors(kept)] == [6.0, 22.0, 38.0]


def _tensors(adapter: Adapter) -> list[Tensor]:
    return [
        tensor
        for component in adapter.components.values()
        for layer in component.layers.values()
        for tensor in layer.tensors.values()
    ]


def test_a_styleinject_file_is_not_converted(miniature: Any, tmp_path: Path) -> None:
    made = si_hub.convert(KOHYA_LORA, tmp_path / "ours.safetensors", base=BASE)
    assert miniature.load_styleinject_weights(made.path).notes == ()
    assert file_format.read(made.path).base_model.architecture == "StableDiffusionPipeline"
