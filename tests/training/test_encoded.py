"""Pictures and prompts are encoded once, and read again from the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from si_hub.training.encoded import EncodedPictures, live_texts, size_step, usual_resolution, with_trigger
from si_hub.training.gallery import Captioned, captioned_pictures
from si_hub.work.folder import Work
from si_hub.work.processes import Processes
from tests.miniature import MINIATURE

ONE = Processes(0, 1, torch.device("cpu"))


def opened(folder: Path) -> Work:
    work = Work(folder)
    work.open({"plan": 1})
    return work


def test_a_second_run_encodes_nothing(
    pipeline: Any, ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, prompts = captioned_pictures(ink), [None, "a fox", "a fox"]
    first = EncodedPictures(pipeline, opened(tmp_path / "w"), ONE)
    names = first.add_pictures("picture", pictures, 32, buckets=True)
    first.add_texts(prompts)
    monkeypatch.setattr(pipeline.vae, "encode", None)
    monkeypatch.setattr(pipeline, "encode_prompt", None)
    again = EncodedPictures(pipeline, opened(tmp_path / "w"), ONE)
    assert again.add_pictures("picture", pictures, 32, buckets=True) == names
    again.add_texts(prompts)
    for name in names:
        assert torch.equal(again.latents(name), first.latents(name))
    found = again.text(["a fox", None])
    assert torch.equal(found["encoder_hidden_states"], first.text(["a fox", None])["encoder_hidden_states"])
    assert not torch.equal(found["encoder_hidden_states"][0], found["encoder_hidden_states"][1])


def test_processes_share_the_work_and_both_read_all_of_it(pipeline: Any, ink: Path, tmp_path: Path) -> None:
    pictures, work = captioned_pictures(ink), opened(tmp_path / "w")
    made: list[str] = []
    save = Work.save

    def saving(self: Work, name: str, *args: Any) -> Any:
        made.append(name)
        return save(self, name, *args)

    second = EncodedPictures(pipeline, work, Processes(1, 2, torch.device("cpu")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "save", saving)
        with pytest.raises(AssertionError):  # The first process, which is not there, makes the other half.
            second.add_pictures("picture", pictures, 32, buckets=True)
    assert made == ["picture 1", "picture 3"]


def test_pictures_keep_their_shape_or_are_cut_square(pipeline: Any, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (96, 48)).save(wide)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 48)).save(tmp_path / "turned.png", exif=exif)
    encoded = EncodedPictures(pipeline, opened(tmp_path / "w"), ONE)
    pictures = [Captioned(file, "") for file in (wide, tmp_path / "turned.png")]
    shapes = [encoded.latents(name).shape for name in encoded.add_pictures("kept", pictures, 32, buckets=True)]
    assert shapes == [(8, 4, 10), (8, 10, 4)] or shapes == [(8, 6, 10), (8, 10, 6)]
    [square, _] = encoded.add_pictures("square", pictures, 32, buckets=False)
    assert encoded.latents(square).shape == (8, 8, 8)


def test_the_base_s_own_pictures_are_drawn_from_their_seeds(pipeline: Any, tmp_path: Path) -> None:
    pipeline.set_progress_bar_config(disable=True)
    encoded = EncodedPictures(pipeline, opened(tmp_path / "w"), ONE)
    names = encoded.add_own(["a large red circle at the left, on sand"] * 2, 32, 0)
    one, two = (encoded.latents(name) for name in names)
    assert one.shape == (8, 8, 8)
    assert not torch.equal(one, two)
    shown = pipeline.image_processor.postprocess(
        pipeline.vae.decode(one[None] / pipeline.vae.config.scaling_factor).sample.detach(), output_type="pt"
    )
    red, _, blue = shown[0, :, 16, 8]
    assert red > blue + 0.3  # The circle is red, where it was asked for.


def test_packed_latents_are_unpacked(tmp_path: Path) -> None:
    from diffusers import FluxPipeline

    dit = FluxPipeline.from_pretrained(MINIATURE / "dit")
    dit.set_progress_bar_config(disable=True)
    encoded = EncodedPictures(dit, opened(tmp_path / "w"), ONE)
    [name] = encoded.add_own(["a large red circle at the left, on sand"], 32, 0)
    assert encoded.latents(name).shape == (8, 8, 8)


def test_small_pictures_are_not_enlarged(pipeline: Any, tmp_path: Path) -> None:
    for name, side in (("a", 24), ("b", 26), ("c", 900)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{name}.png")
    pictures = [Captioned(file, "") for file in sorted(tmp_path.glob("*.png"))]
    assert size_step(pipeline) == 8  # A latent is 4 pixels wide, and the U-Net halves once.
    assert usual_resolution(pipeline, pictures) == 24
    assert usual_resolution(pipeline, pictures[2:]) == 32  # The pipeline's own.


def test_gradients_flow_into_text_encoders(pipeline: Any) -> None:
    weight = pipeline.text_encoder.get_input_embeddings().weight
    weight.requires_grad_(True)
    live_texts(pipeline, ["a red circle"])["encoder_hidden_states"].sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad.abs().sum() > 0
    weight.requires_grad_(False)
    weight.grad = None


def test_a_trigger_is_said_once() -> None:
    assert with_trigger("a fox", "ink") == "ink, a fox"
    assert with_trigger("a fox, ink", "ink") == "a fox, ink"
    assert with_trigger("a pink fox", "ink") == "ink, a pink fox"
    assert with_trigger("", "ink") == "ink"
    assert with_trigger("a fox", None) == "a fox"
