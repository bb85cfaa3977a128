"""Several adapters compiled into one: nearer to their sum, in the predicted noise, than each layer's best pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

import si_hub
from si_hub import format
from si_hub.errors import UsageError
from tests.miniature import BASE, MINIATURE, PROMPTS

FILES = [MINIATURE / "peers" / f"{name}.safetensors" for name in ("kohya_lora", "peft_lora", "lycoris_locon")]


def predict(pipe: Any, file: Path | None) -> torch.Tensor:
    """The predicted noise at several times, with prompts of the miniature's own."""
    if file is not None:
        pipe.load_styleinject_weights(file)
    generator = torch.Generator().manual_seed(0)
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()[:8]
    text = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    latents = torch.randn(len(prompts), 8, 8, 8, generator=generator)
    with torch.no_grad():
        found = [pipe.unet(latents, time, text).sample for time in (900, 700, 500)]
    if file is not None:
        pipe.unload_styleinject_weights()
    return torch.stack(found)


@pytest.mark.slow
def test_the_predicted_noise_is_nearer_than_with_the_best_pairs_of_each_layer(tmp_path: Path) -> None:
    si_hub.enable()
    whole = si_hub.merge(FILES, tmp_path / "sum.safetensors", base=BASE)
    size = sum(file.stat().st_size for file in FILES) // 5
    plain = si_hub.merge(FILES, tmp_path / "svd.safetensors", base=BASE, size=size)
    made = si_hub.merge(
        FILES, tmp_path / "small.safetensors", base=BASE, size=size, method="calibrated", prompts=PROMPTS
    )
    assert plain.path.stat().st_size <= size
    assert made.path.stat().st_size <= size
    assert made.noise_error is not None
    pipe: Any = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    base, wanted = predict(pipe, None), predict(pipe, whole.path)
    left = {
        one.path.name: float((predict(pipe, one.path) - wanted).square().mean() / (base - wanted).square().mean())
        for one in (plain, made)
    }
    assert left["small.safetensors"] < 0.8 * left["svd.safetensors"]
    adapter = format.read(made.path)
    assert adapter.about["fidelity"]["error"] == pytest.approx(made.noise_error, rel=1e-3)
    assert "exact" not in adapter.about["provenance"]
    assert [one["name"] for one in adapter.about["provenance"]["sources"]] == [file.name for file in FILES]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_budget_and_a_folder_are_needed(tmp_path: Path) -> None:
    output = tmp_path / "o.safetensors"
    for options, said in (
        ({"method": "magic", "rank": 2}, "method: is no way to make it smaller"),
        ({"method": "calibrated", "tolerance": 0.1}, "takes a budget, a sum and a pipeline's folder"),
        ({"method": "calibrated", "rank": 2, "branches": True}, "takes a budget, a sum"),
        ({"method": "calibrated"}, "say one of them"),
    ):
        with pytest.raises(UsageError, match=said):
            si_hub.merge(FILES, output, base=BASE, **options)
    assert not list(tmp_path.iterdir())
