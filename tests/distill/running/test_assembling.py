"""Pipelines assembled from single files: the same models as folders', or one sentence that says what is lacking."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from si_hub.architectures.bases.contract import Blueprint
from si_hub.architectures.folder import read_object
from si_hub.distill import distill, open_model
from si_hub.distill.pair.matching import match_all
from si_hub.distill.pair.model import ModelOnDisk
from si_hub.distill.pair.opening import open_base
from si_hub.distill.running.assembling import _dtype_in, asked_prediction, load_pipeline, why_not
from si_hub.distill.running.releases import RELEASES, Release
from si_hub.distill.running.stored import StoredParameter
from si_hub.errors import BaseMismatch, CannotRun, MissingFile, UsageError
from tests.distill import families
from tests.distill.singles import miniature_file
from tests.miniature import BASE, INK, PROMPTS, copy_base, tune_attentions

SHORT: dict[str, Any] = {"trajectories": 2, "states": 2, "sampling_steps": 3, "pieces": 4, "held_out": 2}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_file(tmp_path_factory.mktemp("single") / "base.safetensors")


def _same(ours: Any, theirs: Any) -> None:
    for part in ("unet", "text_encoder", "vae"):
        expected = dict(getattr(theirs, part).named_parameters())
        found = dict(getattr(ours, part).named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_file_with_a_configuration_is_the_folders_pipeline(single: Path) -> None:
    pipeline = load_pipeline(open_base(single, [INK], BASE))
    folder = DiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    _same(pipeline, folder)
    assert pipeline.scheduler.config == folder.scheduler.config
    assert pipeline.tokenizer("a red star").input_ids == folder.tokenizer("a red star").input_ids


def _shrunk() -> Release:
    """Stable Diffusion 1's release with the miniature's sizes."""
    sizes = {
        name: Blueprint("", part.library, part.class_name, open_model(BASE).config(name))
        for name, part in RELEASES["sd15"].models.items()
    }
    drop = ("_class_name", "_diffusers_version", "_name_or_path")
    for name, part in sizes.items():
        read = part.config or read_object(BASE / name / "config.json")
        sizes[name] = replace_config(part, {key: value for key, value in read.items() if key not in drop})
    return replace(RELEASES["sd15"], models=sizes, sides=(16, 16))


def replace_config(part: Blueprint, config: dict[str, Any]) -> Blueprint:
    return Blueprint(part.table, part.library, part.class_name, config)


def test_a_shipped_release_needs_no_folder(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RELEASES, "custom", _shrunk())
    model = open_base(single, [INK], BASE)
    model.configuration = None
    model.architecture = replace(model.architecture, name="custom")
    pipeline = load_pipeline(model, torch.float16)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert model.prediction_type == "epsilon"
    assert type(pipeline.scheduler).__name__ == "PNDMScheduler"
    assert pipeline.unet.config.sample_size == 16
    theirs = DiffusionPipeline.from_pretrained(BASE, safety_checker=None, dtype=torch.float16)
    _same(pipeline, theirs)


def test_what_stays_in_its_file_is_asked_what_it_predicts_all_the_same(
    single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for asked in (False, True):
        monkeypatch.setitem(RELEASES, "custom", replace(_shrunk(), asks=asked))
        model = open_base(single, [INK], BASE)
        model.configuration = None
        model.architecture = replace(model.architecture, name="custom")
        monkeypatch.setattr("si_hub.distill.running.assembling.asked_prediction", lambda denoiser: _held(denoiser))
        pipeline = load_pipeline(model, stored=True)
        assert any(isinstance(one, StoredParameter) for one in pipeline.unet.parameters())
        found.append(model.prediction_type)
    assert found == ["epsilon", "v_prediction"]


def _held(denoiser: Any) -> str:
    assert not any(isinstance(one, StoredParameter) for one in denoiser.parameters())
    return "v_prediction"


def test_what_float16_is_not_enough_for_is_held_in_float32(tmp_path: Path) -> None:
    folder = families.sd3(tmp_path / "base")
    for stored in (False, True):
        pipeline = load_pipeline(open_model(folder), torch.float16, stored=stored)
        found = {
            name: one.dtype for name, one in pipeline.text_encoder_3.named_parameters() if one.dtype != torch.float16
        }
        assert found
        assert all(".wo." in name and kind == torch.float32 for name, kind in found.items())
        assert any(isinstance(one, StoredParameter) for one in pipeline.transformer.parameters()) is stored


def test_whoever_says_that_less_than_float32_is_not_enough_is_heard() -> None:
    kinds: dict[str, Any] = {
        home: type("Model", (torch.nn.Module,), {"_keep_in_fp32_modules": ["time"], "__module__": f"{home}.models"})
        for home in ("diffusers", "transformers")
    }
    kinds["strict"] = type("Model", (torch.nn.Module,), {"_keep_in_fp32_modules_strict": ["time"]})
    exact = {
        (home, dtype): _dtype_in(kind(), "block.time.weight", dtype) == torch.float32
        for home, kind in kinds.items() for dtype in (torch.float16, torch.bfloat16)
    }  # fmt: skip
    assert [key for key, kept in exact.items() if not kept] == [("transformers", torch.bfloat16)]
    assert _dtype_in(kinds["strict"](), "block.other.weight", torch.float16) == torch.float16


def test_buffers_are_those_of_the_file(tmp_path: Path) -> None:
    def move(tensors: dict[str, torch.Tensor]) -> None:
        tensors["pos_embed.pos_embed"] += 1.0

    folder = families.edited(families.sd3(tmp_path / "base"), tmp_path / "moved", "transformer", move)
    found = [
        load_pipeline(open_model(folder), torch.float16, stored=stored).transformer.pos_embed.pos_embed
        for stored in (False, True)
    ]
    assert found[0].dtype == found[1].dtype == torch.float16
    assert torch.equal(*found)


def test_a_component_is_of_the_class_that_its_pipeline_names(tmp_path: Path) -> None:
    folder = families.flux(tmp_path / "base")
    config = folder / "text_encoder_2" / "config.json"
    said = config.read_text(encoding="utf-8").replace("T5EncoderModel", "T5ForConditionalGeneration")
    config.write_text(said, encoding="utf-8")
    assert type(load_pipeline(open_model(folder), stored=True).text_encoder_2).__name__ == "T5EncoderModel"


@pytest.mark.parametrize("stored", [False, True])
def test_a_folder_that_lacks_a_weight_is_told_in_a_line(stored: bool, tmp_path: Path) -> None:
    lost = "single_transformer_blocks.0.proj_out.weight"

    def lose(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[lost]

    folder = families.edited(families.flux(tmp_path / "base"), tmp_path / "lacking", "transformer", lose)
    with pytest.raises(BaseMismatch, match="lacks a weight that its configuration names") as raised:
        load_pipeline(open_model(folder), stored=stored)
    assert f"transformer.{lost}" in str(raised.value)


def test_what_diffusers_refuses_to_load_is_told_in_a_line(tmp_path: Path) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors["x_embedder.weight"] = tensors["x_embedder.weight"][:, :8].clone()

    folder = families.edited(families.flux(tmp_path / "base"), tmp_path / "cut", "transformer", cut)
    with pytest.raises(CannotRun, match="cannot be loaded by diffusers: Cannot load"):
        load_pipeline(open_model(folder))
    with pytest.raises(BaseMismatch, match="has a weight of another shape than its configuration says"):
        load_pipeline(open_model(folder), stored=True)


def test_a_single_file_base_makes_the_adapter_that_its_folder_makes(single: Path, tmp_path: Path) -> None:
    tuned = tune_attentions(tmp_path, "ink")
    made = [
        distill(
            base, tuned, output=tmp_path / f"{name}.safetensors", size=60_000, prompts=PROMPTS, cache=tmp_path / "c",
            report=tmp_path / f"{name}.html", pictures=1, method="calibrated", trust_order=True, config=config,
            **SHORT,
        )
        for name, base, config in (("file", single, BASE), ("folder", BASE, None))
    ]  # fmt: skip
    assert made[0].sha256 == made[1].sha256
    assert made[0].error == made[1].error
    assert (tmp_path / "file.html").stat().st_size > 10_000


def test_without_a_configuration_it_is_said_which_would_do(single: Path, tmp_path: Path) -> None:
    tuned = tune_attentions(tmp_path, "ink")
    found = distill(single, tuned, output=tmp_path / "a.safetensors", rank=1, trust_order=True)
    assert found.method == "svd"
    assert "is a single file of another model, whose configuration is not" in found.reason
    with pytest.raises(CannotRun, match="config="):
        distill(
            single,
            tmp_path / "ink",
            output=tmp_path / "b.safetensors",
            method="calibrated",
            trust_order=True,
            size=60_000,
            prompts=PROMPTS,
        )


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("sd15", {"unet": {}, "text_encoder": {}}, "without its vae"),
        ("sdxl", {"unet": {}, "text_encoder": {}}, "without its text_encoder_2, vae"),
        ("flux", {"transformer": {}}, "is a single file of FLUX.1, whose configuration is not shipped"),
        ("sd15", {"unet": {"conv_in.weight": SimpleNamespace(shape=(320, 9, 3, 3))}, "text_encoder": {}, "vae": {}},
         "takes 9 channels"),
        ("sd15", {"unet": {}, "text_encoder": {}, "vae": {}}, None),
    ],
)  # fmt: skip
def test_why_a_file_cannot_run(name: str, weights: dict[str, Any], expected: str | None) -> None:
    from si_hub import architectures

    vae = {"a": SimpleNamespace(shape=())} if weights.pop("vae", None) is not None else {}
    model = ModelOnDisk(Path("a.safetensors"), "file", architectures.load(name), None, weights, vae=vae)  # type: ignore[arg-type]
    found = why_not(model)
    assert found is None if expected is None else found and expected in found


def test_a_configuration_that_is_not_the_files_is_named(single: Path, tmp_path: Path) -> None:
    other = copy_base(tmp_path / "other")
    config = other / "unet" / "config.json"
    text = config.read_text(encoding="utf-8")
    model = open_base(single, [INK], BASE)
    model.configuration = other
    config.write_text(text.replace('"in_channels": 8', '"in_channels": 9'), encoding="utf-8")
    with pytest.raises(BaseMismatch, match=r"unet\.conv_in\.weight"):
        load_pipeline(model)
    with pytest.raises(UsageError, match="config"):
        match_all(BASE, [INK], config=BASE)
    with pytest.raises(MissingFile, match="model_index"):
        match_all(single, [INK], config=BASE / "unet")


class _Denoiser(torch.nn.Module):
    """Predicts noise, or v."""

    config = SimpleNamespace(in_channels=4, cross_attention_dim=8)

    def __init__(self, share: float) -> None:
        super().__init__()
        self.like, self.share = torch.nn.Parameter(torch.zeros(1)), share

    def forward(self, noise: torch.Tensor, time: Any, text: torch.Tensor, return_dict: bool) -> Any:
        picture = torch.randn(noise.shape, generator=torch.Generator().manual_seed(5))
        return (self.share * noise - (1 - self.share**2) ** 0.5 * picture,)


@pytest.mark.parametrize(("share", "expected"), [(0.99, "epsilon"), (0.068, "v_prediction")])
def test_a_denoiser_is_asked_what_it_predicts(share: float, expected: str) -> None:
    """0.068 is √ᾱ at the last step of Stable Diffusion."""
    assert asked_prediction(_Denoiser(share)) == expected
