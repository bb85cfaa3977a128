"""`si-hub merge` and `si-hub resize` on files of several families, held against the miniature's own U-Net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

import si_hub
from si_hub import format
from si_hub.cli import main
from si_hub.errors import BaseMismatch, ConversionRefused, FileAccessError, UsageError
from tests.commands import write_kohya
from tests.miniature import BASE, KOHYA_LORA, MINIATURE

PEERS = MINIATURE / "peers"
FAMILIES = ("kohya_lora", "lycoris_lokr", "lycoris_loha", "lycoris_dora", "peft_lora")
WEIGHTS = (0.7, -0.4, 0.5, 0.3, 1.0)


@pytest.fixture(scope="module")
def pipe() -> Any:
    si_hub.enable()
    return StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)


def predict(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(1, 8, 8, 8, generator=generator), torch.randn(1, 7, 64, generator=generator)
    with torch.no_grad():
        noise: torch.Tensor = pipe.unet(latents, 500, text).sample
    return noise


def predict_with(pipe: Any, files: dict[Path, Any], styles: dict[str, float] | None = None) -> torch.Tensor:
    """With each file loaded as any user loads it, at its weight."""
    for number, file in enumerate(files):
        pipe.load_styleinject_weights(file, adapter_name=f"a{number}")
    pipe.set_styleinject_adapters([f"a{number}" for number in range(len(files))], list(files.values()))
    if styles:
        pipe.set_styles(styles)
    found = predict(pipe)
    pipe.unload_styleinject_weights()
    return found


def test_the_sum_of_five_families_predicts_what_all_five_do(pipe: Any, tmp_path: Path) -> None:
    terms = {PEERS / f"{name}.safetensors": weight for name, weight in zip(FAMILIES, WEIGHTS, strict=True)}
    found = si_hub.merge(terms, tmp_path / "sum.safetensors", base=BASE)
    assert not found.compression.errors
    expected = predict_with(pipe, terms)
    assert (expected - predict(pipe)).abs().max() > 0.1
    torch.testing.assert_close(predict_with(pipe, {found.path: 1.0}), expected, rtol=0, atol=2e-4)
    provenance = format.read(found.path).about["provenance"]
    assert provenance["exact"] is True
    assert [one["name"] for one in provenance["sources"]] == [path.name for path in terms]


def test_weights_by_block_do_what_they_do_in_a_pipeline(pipe: Any, tmp_path: Path) -> None:
    table = {"unet": {"down": {"block_0": 0.2}, "mid": -0.5, "up": 0.7, "up.block_1.resnets": 0.1}}
    terms = {PEERS / "lycoris_locon.safetensors": table, PEERS / "lycoris_lokr.safetensors": 0.5}
    found = si_hub.merge(terms, tmp_path / "sum.safetensors", base=BASE)
    torch.testing.assert_close(
        predict_with(pipe, {found.path: 1.0}), predict_with(pipe, terms), rtol=0, atol=2e-4
    )  # fmt: skip
    even = si_hub.merge(dict.fromkeys(terms, 0.5), tmp_path / "even.safetensors", base=BASE)
    assert (predict_with(pipe, {even.path: 1.0}) - predict_with(pipe, {found.path: 1.0})).abs().max() > 0.01


def test_what_overlaps_is_told_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "o.safetensors"
    words = ["merge", f"{KOHYA_LORA}:unet=0.5,text_encoder=0", f"{KOHYA_LORA}:-0.5", "--base", str(BASE), "-o", output]
    ended = CliRunner().invoke(main, [*map(str, words), "--report", "--dry-run", "--json"])
    assert ended.exit_code == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["sources"][0]["weight"] == {"unet": 0.5, "text_encoder": 0.0}
    [overlap] = found["overlaps"]
    assert len(overlap["layers"]) == len(overlap["interfering"]) == 48
    assert list(overlap["layers"].values()) == pytest.approx([-1.0] * 48)
    assert not found["written"]
    assert not output.exists()
    assert "48 layers cancel one another" in CliRunner().invoke(main, [*map(str, words), "--report"]).stdout
    assert abs(output.stat().st_size - found["size"]) <= 128


def test_branches_draw_what_their_own_files_draw(pipe: Any, tmp_path: Path) -> None:
    small = si_hub.resize(PEERS / "peft_lora.safetensors", tmp_path / "small.safetensors", rank=3, base=BASE)
    names = ("kohya_lora", "peft_lora", "lycoris_locon", "lycoris_loha")
    files = [*(PEERS / f"{name}.safetensors" for name in names), small.path]
    found = si_hub.merge(files, tmp_path / "styles.safetensors", branches=True, base=BASE)
    assert found.branches == (*names, "small")
    for file in files:
        expected = predict_with(pipe, {file: 1.0})
        reached = predict_with(pipe, {found.path: 1.0}, {file.stem: 1.0})
        torch.testing.assert_close(reached, expected, rtol=0, atol=1e-4)


def test_resizing_leaves_what_the_best_truncation_leaves(tmp_path: Path) -> None:
    si_hub.convert(KOHYA_LORA, tmp_path / "a.safetensors", base=BASE)
    found = si_hub.resize(tmp_path / "a.safetensors", tmp_path / "b.safetensors", rank=2, base=BASE)
    before = format.read(tmp_path / "a.safetensors").components["unet"].layers
    after = format.read(found.path).components["unet"].layers
    assert found.ranks == {2: 66}
    for path, layer in before.items():
        dense, reached = (
            held["up.weight"].numpy().astype(float) @ held["down.weight"].numpy().astype(float).reshape(rank, -1)
            for held, rank in ((layer.tensors, layer.rank), (after[path].tensors, 2))
        )
        sigma = np.linalg.svd(dense * layer.scale, compute_uv=False)
        assert np.linalg.norm(dense * layer.scale - reached) <= 1.005 * np.linalg.norm(sigma[2:]) + 1e-9


def test_a_size_is_kept_and_a_sum_is_made_smaller(tmp_path: Path) -> None:
    found = si_hub.merge(
        [KOHYA_LORA, PEERS / "peft_lora.safetensors"], tmp_path / "small.safetensors", base=BASE, size="150kB"
    )
    assert found.path.stat().st_size <= 150_000
    assert 0 < found.compression.error < 1
    assert "exact" not in format.read(found.path).about["provenance"]


def test_what_cannot_be_merged_is_told(tmp_path: Path) -> None:
    other = write_kohya(tmp_path / "sd15.safetensors")
    si_hub.convert(other, tmp_path / "sd15.styleinject.safetensors")
    si_hub.convert(KOHYA_LORA, tmp_path / "mini.safetensors", base=BASE)
    output = tmp_path / "o.safetensors"
    with pytest.raises(UsageError, match="takes two adapters or more"):
        si_hub.merge([other], output)
    with pytest.raises(BaseMismatch, match="is for another base model"):
        si_hub.merge([tmp_path / "sd15.styleinject.safetensors", tmp_path / "mini.safetensors"], output, base="sd15")
    with pytest.raises(ConversionRefused, match="only pairs can be branches"):
        si_hub.merge([KOHYA_LORA, PEERS / "lycoris_lokr.safetensors"], output, branches=True, base=BASE)
    with pytest.raises(UsageError, match="two adapters would be one style's name"):
        si_hub.merge([KOHYA_LORA, KOHYA_LORA], output, branches=True, base=BASE)
    with pytest.raises(UsageError, match="a style's weight is one number"):
        si_hub.merge({KOHYA_LORA: {"unet": 1}, PEERS / "peft_lora.safetensors": 1}, output, branches=True, base=BASE)
    with pytest.raises(UsageError, match=r"unet\.dwn: covers no layer of the adapter"):
        si_hub.merge([(KOHYA_LORA, {"unet.dwn": 1}), KOHYA_LORA], output, base=BASE)
    with pytest.raises(UsageError, match="say how small it is to be"):
        si_hub.resize(other, output)
    with pytest.raises(FileAccessError, match="already exists"):
        si_hub.resize(other, other, rank=2)
    with pytest.raises(FileAccessError, match="is a source itself"):
        si_hub.resize(other, other, rank=2, force=True)
    assert not output.exists()


def test_several_are_resized_into_a_folder(tmp_path: Path) -> None:
    files = [str(write_kohya(tmp_path / name)) for name in ("a.safetensors", "b.safetensors")]
    ended = CliRunner().invoke(main, ["resize", *files, "--rank", "2", "-o", f"{tmp_path}/small/"])
    assert ended.exit_code == 0, ended.stderr
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["a.safetensors", "b.safetensors"]
    one = CliRunner().invoke(main, ["resize", *files, "--rank", "2", "-o", str(tmp_path / "c.safetensors")])
    assert one.exit_code == UsageError.exit_code


def test_weights_are_said_behind_a_colon(tmp_path: Path) -> None:
    one, two = write_kohya(tmp_path / "one.safetensors"), write_kohya(tmp_path / "two:3.safetensors")
    output = tmp_path / "o.safetensors"
    words = ["merge", f"{one}:0.5", f"{two}", "-o", str(output), "--json"]
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 0, ended.stderr
    assert [one["weight"] for one in json.loads(ended.stdout)["sources"]] == [0.5, 1.0]
    layer = next(iter(format.read(output).components["unet"].layers.values()))
    source = next(
        iter(format.read(si_hub.convert(one, tmp_path / "c.safetensors").path).components["unet"].layers.values())
    )
    dense = [
        one.tensors["up.weight"].numpy().astype(float) @ one.tensors["down.weight"].numpy().astype(float) * one.scale
        for one in (layer, source)
    ]
    np.testing.assert_allclose(dense[0], 1.5 * dense[1], rtol=1e-4, atol=1e-5)
    ended = CliRunner().invoke(main, ["resize", str(output), "--rank", "2", "-o", str(tmp_path / "r.safetensors")])
    assert ended.exit_code == 0, ended.stderr
