"""Pairs of models: what differs, and every wrong pair found before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from si_hub import architectures
from si_hub.architectures.layouts import sgm
from si_hub.distill.pair.checkpoint import read_checkpoint
from si_hub.distill.pair.kinship import glance
from si_hub.distill.pair.matching import match
from si_hub.distill.pair.opening import open_model
from si_hub.distill.pair.weights import Weight
from si_hub.errors import WrongPair
from si_hub.storage.tensors import Tensor
from tests.distill import families
from tests.distill.checkpoints import original, shapes_of, write
from tests.miniature import BASE, INK, NEON, copy_base, open_pair

UNET = "model.diffusion_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature's base."""
    return copy_base(tmp_path / "base")


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """The base's own weights as a single file, with some of them replaced."""

    def build(dtype: torch.dtype = torch.float16, **tensors: torch.Tensor) -> Path:
        held = load_file(NEON)
        base, tuned = open_model(BASE), open_model(NEON, base=open_model(BASE))
        for component, table in tuned.components.items():
            for name, weight in table.items():
                [source] = weight.sources
                held[source] = base.components[component][name].torch().to(dtype)
        for name, value in tensors.items():
            held[UNET + name] = value
        return write(tmp_path / "tuned.safetensors", held)

    return build


def test_differences_are_float32_and_exact() -> None:
    found = open_pair(NEON)
    live = {change.module: change for change in found.changes if change.component == "unet"}
    change = live["down_blocks.0.resnets.0.conv1"]
    base = load_file(BASE / "unet" / "diffusion_pytorch_model.safetensors")
    tuned = load_file(NEON)
    for delta, leaf in ((change.delta(), "weight"), (change.bias_delta(), "bias")):
        old = base[f"down_blocks.0.resnets.0.conv1.{leaf}"]
        new = tuned[f"{UNET}input_blocks.1.0.in_layers.2.{leaf}"]
        assert delta is not None
        assert torch.equal(delta, new.float() - old.float())
    assert change.kind == "conv"
    assert found.unchanged == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_asking_twice_gives_the_same_difference(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({name: value.to(dtype) for name, value in load_file(NEON).items()}, tmp_path / "tuned.ckpt")
    for change in open_pair(tmp_path / "tuned.ckpt").changes[:20]:
        one, other = change.delta(), change.delta()
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
        assert one.any()


def test_unchanged_modules_are_found_by_every_number(changed: Callable[..., Path]) -> None:
    weight = open_model(BASE).components["unet"]["mid_block.resnets.0.conv1.weight"].torch().clone()
    weight.view(-1)[4321] += 1  # Between the sampled places.
    found = open_pair(changed(**{"middle_block.0.in_layers.2.weight": weight}))
    assert [change.module for change in found.changes] == ["mid_block.resnets.0.conv1"]
    assert found.changes[0].bias is None
    assert found.changes[0].bias_delta() is None
    delta = found.changes[0].delta()
    assert delta is not None
    assert int(delta.count_nonzero()) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_rounding_to_another_dtype_is_no_change(dtype: torch.dtype, changed: Callable[..., Path]) -> None:
    bias = torch.ones(48).to(dtype)
    found = open_pair(changed(dtype, **{"input_blocks.0.0.bias": bias}))
    assert [(change.module, change.weight) for change in found.changes] == [("conv_in", None)]


def test_a_text_encoder_that_is_not_in_the_file_is_taken_as_unchanged(tmp_path: Path) -> None:
    held = {name: value for name, value in load_file(NEON).items() if name.startswith(UNET)}
    found = open_pair(write(tmp_path / "unet.safetensors", held))
    assert {change.component for change in found.changes} == {"unet"}
    assert "text_encoder is not in unet.safetensors: taken as unchanged" in found.notes
    assert any("does not say what it predicts" in note for note in found.notes)


def test_a_differing_autoencoder_is_reported(tmp_path: Path) -> None:
    held = load_file(NEON)
    held["first_stage_model.decoder.conv_out.bias"] += 1
    [note] = [note for note in open_pair(write(tmp_path / "vae.safetensors", held)).notes if "autoencoder" in note]
    assert "is not carried" in note


def test_a_checkpoint_of_another_architecture_is_named(tmp_path: Path) -> None:
    known = architectures.load("sdxl").components["unet"]
    file = write(tmp_path / "xl.safetensors", original(sgm(known), dict(shapes_of(known)), UNET))
    with pytest.raises(WrongPair, match=r"is a checkpoint of sdxl, the base is StableDiffusionPipeline"):
        open_pair(file)


@pytest.mark.parametrize(
    ("channels", "what"), [(17, "other inputs"), (9, "an inpainting model, with 9 input channels")]
)
def test_an_inpainting_model_is_named(channels: int, what: str, tmp_path: Path) -> None:
    held = {**load_file(NEON), CONV_IN: torch.zeros(48, channels, 3, 3)}
    with pytest.raises(WrongPair, match=what):
        open_pair(write(tmp_path / "tuned.safetensors", held))


def test_another_prediction_type_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongPair, match=r"predicts something else.*v_prediction.*found epsilon"):
        open_pair(write(tmp_path / "e.safetensors", load_file(NEON), {"modelspec.prediction_type": "epsilon"}))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "epsilon"}))
    with pytest.raises(WrongPair, match="predicts something else"):
        open_pair(NEON, folder)
    with pytest.raises(WrongPair, match="predicts something else"):
        open_pair(folder)


def test_a_stranger_of_the_same_architecture_is_named(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    held = {name: torch.randn(value.shape, generator=draw) for name, value in load_file(NEON).items()}
    with pytest.raises(WrongPair, match="nothing to do with the base"):
        open_pair(write(tmp_path / "stranger.safetensors", held))


def test_the_same_model_twice_is_named(folder: Path, changed: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(BASE)
    for tuned in (BASE, tmp_path / "link", folder, changed(), changed(torch.float32), changed(torch.bfloat16)):
        with pytest.raises(WrongPair, match="are the same"):
            open_pair(tuned)


def test_a_model_with_another_autoencoder_alone_needs_no_adapter(tmp_path: Path) -> None:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["decoder.conv_in.weight"] += 1.0

    with pytest.raises(WrongPair, match=r"all that adapters carry.*another autoencoder alone"):
        open_pair(families.edited(BASE, tmp_path / "tuned", "vae", edit))


def test_single_files_are_compared_by_their_own_names(changed: Callable[..., Path]) -> None:
    base, other = read_checkpoint(NEON)[0], read_checkpoint(changed())[0]
    with pytest.raises(WrongPair, match="are the same"):
        glance(NEON, base, base)
    with pytest.raises(WrongPair, match="are the same"):
        glance(NEON, {name: base[name] for name in base if "first_stage" not in name}, base)
    glance(NEON, other, base)
    glance(NEON, base | {f"{UNET}new.weight": base[CONV_IN]}, base)
    drawn = torch.randn(base[CONV_IN].shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(WrongPair, match="nothing to do with the base"):
        glance(NEON, {CONV_IN: Weight.in_file(Tensor.from_torch(drawn), CONV_IN)}, base)


def test_a_pair_in_the_wrong_order_is_named_and_may_be_meant(folder: Path, tmp_path: Path) -> None:
    merged = write(tmp_path / "merged.safetensors", load_file(NEON), {"sd_merge_recipe": "{}"})
    sdxl = architectures.load("sdxl")
    assert sdxl.components
    base, tuned = open_model(BASE), open_model(NEON, base=open_model(BASE))
    with pytest.raises(WrongPair, match=r"look swapped.*single-file checkpoint.*trust_order=True"):
        match(tuned, base)
    assert len(match(tuned, base, trust_order=True).changes) == len(match(base, tuned).changes)
    with pytest.raises(WrongPair, match=r"look swapped.*sd_merge_recipe"):
        match(open_model(merged, base=base), open_model(INK, base=base))
    assert match(open_model(INK, base=base), open_model(merged, base=base)).changes
