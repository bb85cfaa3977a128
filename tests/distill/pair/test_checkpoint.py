"""Single files: told by their headers whose they are, read whatever they are stored as, refused if no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from examples.miniature.checkpoints import unfold
from si_hub import architectures
from si_hub.architectures.layouts import sgm
from si_hub.distill.pair.opening import open_model
from si_hub.errors import FormatError, NotAModel, NotSafetensors, TruncatedFile, WrongPair
from tests.distill.checkpoints import original, shapes_of, write
from tests.distill.pair.live import expect_live
from tests.miniature import BASE, KOHYA_LORA, NEON, copy_base, open_pair

UNET = "model.diffusion_model."


CONV_IN = f"{UNET}input_blocks.0.0.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature's base."""
    return copy_base(tmp_path / "base")


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
    config.write_text(
        json.dumps({**json.loads(config.read_text(encoding="utf-8")), "prediction_type": "epsilon"}), encoding="utf-8"
    )
    with pytest.raises(WrongPair, match="predicts something else"):
        open_pair(NEON, folder)
    with pytest.raises(WrongPair, match="predicts something else"):
        open_pair(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_other_dtypes_are_kept_as_stored(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {name: value.to(dtype) for name, value in load_file(NEON).items()}
    model = open_model(write(tmp_path / "tuned.safetensors", stored), base=open_model(BASE))
    weight = model.components["unet"]["conv_in.weight"].torch()
    assert weight.dtype == dtype
    assert torch.equal(weight.float(), stored["model.diffusion_model.input_blocks.0.0.weight"].float())


@pytest.mark.parametrize("says_where", [True, False])
def test_a_pickle_of_tensors_is_read_and_one_of_code_is_refused(
    says_where: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the places of its tensors, where torch says them."""
    if not says_where:
        monkeypatch.setattr("si_hub.storage.pickles._OFFSET", "_not_said")
    file, base = tmp_path / "tuned.ckpt", open_model(BASE)
    torch.save({"state_dict": load_file(NEON), "global_step": 7}, file)
    model = open_model(file, base=base)
    assert (model.components["unet"]["conv_in.weight"].tensor is not None) is says_where
    expect_live(model, "unet", unfold(NEON).unet)
    torch.save({"state_dict": {"weight": torch.zeros(2), "run": Path}}, file)
    with pytest.raises(FormatError, match="a pickle of more than tensors"):
        open_model(file, base=base)
    file.rename(tmp_path / "tuned.safetensors")
    with pytest.raises(NotSafetensors, match="zip archive"):
        open_model(tmp_path / "tuned.safetensors", base=base)


def test_a_lora_a_controlnet_and_an_empty_file_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(NotAModel, match=r"adapter such as a LoRA.*si_hub\.convert\(.kohya_lora\.safetensors.\)"):
        open_model(KOHYA_LORA, base=open_model(BASE))
    with pytest.raises(NotAModel, match="is a ControlNet"):
        open_model(write(tmp_path / "net.safetensors", {"control_model.input_blocks.0.0.weight": (8, 4, 3, 3)}))
    with pytest.raises(NotAModel, match="no tensors"):
        open_model(write(tmp_path / "empty.safetensors", {}))


def test_a_truncated_file_says_so(tmp_path: Path) -> None:
    short = tmp_path / "short.safetensors"
    short.write_bytes(NEON.read_bytes()[:-1000])
    with pytest.raises(TruncatedFile):
        open_model(short, base=open_model(BASE))
