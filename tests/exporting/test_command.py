"""`si-hub export` as a user has it: what other libraries make of the files, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import si_hub
from si_hub import format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.cli import main
from si_hub.errors import BaseMismatch, ConversionRefused, FileAccessError, UnsupportedFamily, UsageError
from si_hub.storage.tensors import Tensor
from tests.miniature import BASE, KOHYA_LORA, MINIATURE

PEERS = MINIATURE / "peers"


def load_unet(loras: Path | None = None) -> Any:
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    if loras is not None:
        pipe.load_lora_weights(loras, weight_name=loras.name)
    return pipe


def predict(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 7, 64, generator=generator)
    with torch.no_grad():
        noise: torch.Tensor = pipe.unet(latents, 500, text).sample
        states: torch.Tensor = pipe.text_encoder(torch.arange(7)[None])[0]
    return torch.cat([noise.flatten(), states.flatten()])


@pytest.fixture(scope="module")
def as_diffusers_loads_it() -> torch.Tensor:
    """What diffusers' own loader makes of kohya's file."""
    return predict(load_unet(KOHYA_LORA))


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_diffusers_draws_the_same_to_the_last_bit(to: str, tmp_path: Path, as_diffusers_loads_it: torch.Tensor) -> None:
    """alpha / rank is a power of two in that file: folding it rounds nothing."""
    assert (as_diffusers_loads_it - predict(load_unet())).abs().max() > 0.01
    found = si_hub.export(KOHYA_LORA, f"{tmp_path}/", to=to, base=BASE)
    assert found.modules == {"text_encoder": 18, "unet": 48}
    assert torch.equal(predict(load_unet(found.paths[0])), as_diffusers_loads_it)


def test_a_scale_that_would_round_is_told_as_diffusers_tells_it(tmp_path: Path) -> None:
    state = load_file(KOHYA_LORA)
    state |= {name: torch.tensor(3.0) for name in state if name.endswith(".alpha")}
    save_file(state, tmp_path / "a.safetensors")
    found = si_hub.export(tmp_path / "a.safetensors", to="diffusers", base=BASE)
    assert "lora_adapter_metadata" in found.notes[0]
    expected, reached = predict(load_unet(tmp_path / "a.safetensors")), predict(load_unet(found.paths[0]))
    assert torch.equal(expected, reached)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers for it
def test_peft_loads_the_folder(tmp_path: Path, as_diffusers_loads_it: torch.Tensor) -> None:
    found = si_hub.export(KOHYA_LORA, tmp_path / "peft", to="peft", base=BASE)
    assert sorted(path.name for path in found.paths) == ["text_encoder", "unet"]
    pipe = load_unet()
    pipe.unet = PeftModel.from_pretrained(pipe.unet, tmp_path / "peft" / "unet")
    pipe.text_encoder = PeftModel.from_pretrained(pipe.text_encoder, tmp_path / "peft" / "text_encoder")
    torch.testing.assert_close(predict(pipe), as_diffusers_loads_it, rtol=0, atol=1e-5)


def change_of(file: Path, base: Path | str, path: str) -> np.ndarray[Any, Any]:
    """ΔW of one module of a file with pairs, Kronecker products or differences, by hand."""
    held = {name: tensor.double().numpy() for name, tensor in load_file(file).items()}
    stem = f"lora_unet_{path.replace('.', '_')}"
    own = {name[len(stem) + 1 :]: value for name, value in held.items() if name.startswith(f"{stem}.")}
    if "lokr_w1" in own:
        right = own["lokr_w2"] if "lokr_w2" in own else own["lokr_w2_a"] @ own["lokr_w2_b"]
        rank = len(own["lokr_w2_b"]) if "lokr_w2_b" in own else None
        return np.kron(own["lokr_w1"], right) * (float(own["alpha"]) / rank if rank else 1)
    product: np.ndarray[Any, Any] = own["lora_up.weight"] @ own["lora_down.weight"]
    return product * float(own["alpha"]) / len(own["lora_down.weight"])


def test_lokr_and_dora_stay_what_they_are_for_kohya(tmp_path: Path) -> None:
    for name in ("lycoris_lokr", "lycoris_dora"):
        found = si_hub.export(PEERS / f"{name}.safetensors", f"{tmp_path}/", to="kohya", base=BASE)
        before, after = load_file(PEERS / f"{name}.safetensors"), load_file(found.paths[0])
        kinds = {key.split(".", 1)[1] for key in after}
        assert kinds & {"lokr_w1", "dora_scale"}
        path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        stem = f"lora_unet_{path.replace('.', '_')}"
        if name == "lycoris_lokr":
            np.testing.assert_allclose(
                change_of(found.paths[0], BASE, path), change_of(PEERS / f"{name}.safetensors", BASE, path), rtol=1e-5
            )
        else:
            for key in (key for key in before if key.startswith(stem)):
                torch.testing.assert_close(after[key].float(), before[key].float().reshape(after[key].shape))


def test_a_dora_without_the_bases_weights_says_what_is_missing(tmp_path: Path) -> None:
    si_hub.convert(PEERS / "lycoris_dora.safetensors", tmp_path / "dora.safetensors", base=BASE)
    adapter = format.read(tmp_path / "dora.safetensors")
    layer = adapter.components["unet"].layers["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    pair = {leaf: Tensor.from_numpy(np.ones((320, 2) if leaf == "up.weight" else (2, 320), np.float32))
            for leaf in ("up.weight", "down.weight")}  # fmt: skip
    gain = {"gain": Tensor.from_numpy(np.ones(320, np.float32))}
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    small = Adapter(BaseModel("sd15"), {"unet": Component(None, {path: Layer({**pair, **gain}, layer.alpha)})})
    format.write(small, tmp_path / "small.safetensors")
    with pytest.raises(UnsupportedFamily, match=r"is DoRA, whose magnitudes are a function.*base=FOLDER"):
        si_hub.export(tmp_path / "small.safetensors", to="kohya")
    with pytest.raises(BaseMismatch, match="is for another base model"):
        si_hub.export(tmp_path / "small.safetensors", to="kohya", base="sdxl")


def test_what_a_format_cannot_say_becomes_pairs_on_request(tmp_path: Path) -> None:
    source = PEERS / "lycoris_lokr.safetensors"
    with pytest.raises(ConversionRefused, match=r"diffusers' format has no place for a layer's.*rank=.*tolerance="):
        si_hub.export(source, f"{tmp_path}/", to="diffusers", base=BASE)
    assert not list(tmp_path.iterdir())
    found = si_hub.export(source, f"{tmp_path}/", to="diffusers", base=BASE, tolerance=0.01)
    assert 0 < found.compression.error <= 0.01
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {name: tensor.double().numpy() for name, tensor in load_file(found.paths[0]).items()}
    reached = state[f"unet.{path}.lora_B.weight"] @ state[f"unet.{path}.lora_A.weight"]
    expected = change_of(source, BASE, path)
    assert np.linalg.norm(reached - expected) / np.linalg.norm(expected) <= 0.0101


def routed(folder: Path) -> Path:
    """An adapter of two named styles with a learned router."""
    dice = np.random.default_rng(0)
    sizes = {"down.weight": (4, 320), "up.weight": (320, 2), "router.weight": (2, 320), "router.bias": (2,)}
    layer = Layer(
        {leaf: Tensor.from_numpy(dice.standard_normal(size).astype("<f4")) for leaf, size in sizes.items()}, 1.0
    )
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    about = {"title": "Two styles", "author": "Anna", "license": "mit", "trigger_words": ["a", "b"], "tags": ["t"]}
    adapter = Adapter(BaseModel("sd15"), {"unet": Component(None, {path: layer})}, ("ink", "neon"), about)
    format.write(adapter, folder / "style.styleinject.safetensors")
    return folder / "style.styleinject.safetensors"


def test_the_header_says_what_other_programs_show(tmp_path: Path) -> None:
    file = routed(tmp_path)
    with pytest.raises(ConversionRefused, match="router chooses styles by the input"):
        si_hub.export(file, to="kohya")
    found = si_hub.export(file, to="kohya", styles={"ink": 1.0})
    assert found.paths == (tmp_path / "style.kohya.safetensors",)
    with safe_open(found.paths[0], "np") as opened:
        said = opened.metadata()
    state = load_file(found.paths[0])
    alone = tmp_path / "alone.safetensors"
    save_file(state, alone)
    raw = alone.read_bytes()
    data = hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()
    assert said["sshs_model_hash"] == data
    assert said["modelspec.hash_sha256"] == f"0x{data}"
    wanted = {
        "ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "1", "ss_v2": "False",
        "ss_base_model_version": "sd_v1", "ss_output_name": "Two styles", "modelspec.title": "Two styles",
        "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.author": "Anna", "modelspec.license": "mit",
        "modelspec.trigger_phrase": "a, b", "modelspec.tags": "t", "format": "pt",
    }  # fmt: skip
    assert {key: said.get(key) for key in wanted} == wanted


def test_nothing_is_written_over_or_half(tmp_path: Path) -> None:
    file = routed(tmp_path)
    shown = si_hub.export(file, to="kohya", styles={"ink": 1.0}, dry_run=True)
    assert shown.dry_run
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    si_hub.export(file, to="kohya", styles={"ink": 1.0})
    with pytest.raises(FileAccessError, match=r"already exists.*force=True"):
        si_hub.export(file, to="kohya", styles={"ink": 1.0})
    si_hub.export(file, to="kohya", styles={"neon": 1.0}, force=True)
    with pytest.raises(FileAccessError, match="is the source itself"):
        si_hub.export(file, file, to="kohya", styles={"ink": 1.0}, force=True)
    with pytest.raises(UsageError, match="no format to export to"):
        si_hub.export(file, to="onnx")
    with pytest.raises(UsageError, match="the original is what it was"):
        si_hub.export(file, to="original", styles={"ink": 1.0})


def test_options_of_the_command_line_are_read(tmp_path: Path) -> None:
    file = routed(tmp_path)
    command = ["export", str(file), "--to", "comfy", "--styles"]
    ended = CliRunner().invoke(main, [*command, "ink=0.5,neon=0.5", "--check", "-o", f"{tmp_path}/out/"])
    assert ended.exit_code == 0, ended.output
    assert "1 layers recomputed" in ended.stdout
    assert (tmp_path / "out" / "style.comfy.safetensors").exists()
    assert CliRunner().invoke(main, [*command, "ink=much"]).exit_code == 2
