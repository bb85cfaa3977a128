"""Adapters in models' own weights: the pipeline of the written model predicts what base and adapter do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import si_hub
from si_hub.distill import distill
from si_hub.editing.unfusing import FUSED
from si_hub.errors import BaseMismatch, ConversionRefused, FileAccessError
from tests.miniature import BASE, KOHYA_LORA, MINIATURE, NEON

PEERS = MINIATURE / "peers"


def load(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def predict(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 7, 64, generator=generator)
    with torch.no_grad():
        noise: torch.Tensor = pipe.unet(latents, 500, text).sample
        states: torch.Tensor = pipe.text_encoder(torch.arange(7)[None])[0]
    return torch.cat([noise.flatten(), states.flatten()])


@pytest.mark.parametrize("name", ["kohya_lora", "lycoris_lokr", "lycoris_dora"])
def test_a_folder_predicts_what_base_and_adapter_do(name: str, tmp_path: Path) -> None:
    source = PEERS / f"{name}.safetensors"
    found = si_hub.fuse(source, BASE, tmp_path / "tuned", weight=0.8)
    si_hub.enable()
    pipe = load(BASE)
    before = predict(pipe)
    pipe.load_styleinject_weights(source, adapter_name="a")
    pipe.set_styleinject_adapters("a", 0.8)
    expected = predict(pipe)
    assert (expected - before).abs().max() > 0.01
    # The base's numbers are float16: so are the fused ones, rounded once.
    torch.testing.assert_close(predict(load(found.path)), expected, rtol=0, atol=2e-2 * float(expected.abs().max()))
    [file] = (found.path / "unet").glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        [said] = json.loads(opened.metadata()[FUSED])
    [stored] = (BASE / "unet").glob("*.safetensors")
    hashes = [hashlib.sha256(one.read_bytes()).hexdigest() for one in (source, stored)]
    assert said == {"adapter": source.name, "weight": 0.8, "sha256": hashes[0], "base_sha256": hashes[1]}
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_what_the_adapter_leaves_alone_is_copied_and_dtypes_stay(tmp_path: Path) -> None:
    found = si_hub.fuse(PEERS / "lycoris_locon.safetensors", BASE, tmp_path / "tuned")
    for folder in ("unet", "text_encoder", "vae"):
        [before], [after] = ((root / folder).glob("*.safetensors") for root in (BASE, found.path))
        old, new = load_file(before), load_file(after)
        assert old.keys() == new.keys()
        differing = [name for name in old if not torch.equal(old[name], new[name])]
        assert all(old[name].dtype == new[name].dtype for name in old)
        assert len(differing) == (found.changed if folder == "unet" else 0)
    assert (BASE / "model_index.json").read_bytes() == (found.path / "model_index.json").read_bytes()


def test_a_dry_run_says_what_would_be_changed(tmp_path: Path) -> None:
    shown = si_hub.fuse(KOHYA_LORA, BASE, tmp_path / "tuned", dry_run=True)
    assert not list(tmp_path.iterdir())
    made = si_hub.fuse(KOHYA_LORA, BASE, tmp_path / "tuned")
    assert (shown.is_written, shown.changed, made.is_written) == (False, made.changed, True)


def test_fused_and_distilled_the_adapter_comes_back(tmp_path: Path) -> None:
    wide = Path(shutil.copytree(BASE, tmp_path / "base"))
    for folder in ("unet", "text_encoder"):  # float32: what is distilled is the adapter, not rounding
        [file] = (wide / folder).glob("*.safetensors")
        save_file({name: value.float() for name, value in load_file(file).items()}, file, {"format": "pt"})
    fused = si_hub.fuse(KOHYA_LORA, wide, tmp_path / "tuned")
    found = distill(wide, fused.path, output=tmp_path / "back.safetensors", method="svd", rank=8)
    assert found.error < 0.01
    assert max(found.ranks) == 8


def test_a_single_file_is_written_as_one(tmp_path: Path) -> None:
    si_hub.convert(KOHYA_LORA, tmp_path / "a.safetensors", base=BASE)
    state = load_file(NEON)
    save_file(state, tmp_path / "base.safetensors", {"mine": "kept"})
    with pytest.raises((ConversionRefused, BaseMismatch)):
        # A file without its configuration is another base than the miniature's folder.
        si_hub.fuse(tmp_path / "a.safetensors", tmp_path / "base.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_nothing_is_replaced_and_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileAccessError, match="already exists"):
        si_hub.fuse(KOHYA_LORA, BASE, tmp_path / "there", force=True)
    with pytest.raises(FileAccessError, match="is the base model, or in it"):
        si_hub.fuse(KOHYA_LORA, BASE, BASE / "tuned")

    def fail(*_: Any, **__: Any) -> Any:
        raise FileAccessError("No space left on device")

    monkeypatch.setattr("si_hub.editing.fusing.write_safetensors", fail)
    with pytest.raises(FileAccessError):
        si_hub.fuse(KOHYA_LORA, BASE, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
