"""What a user says of the base model when saving, and what of that a file may say: never where it lies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from si_hub import StyleInjectConfig
from si_hub import format as file_format
from si_hub.adapter import BaseModel
from si_hub.errors import DocumentError, UsageError
from si_hub.hub.push.content import collect_content
from si_hub.pipelines.bases import name_base

Make = Callable[..., Any]
MINIATURE = Path(__file__).parents[2] / "examples" / "miniature"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class SomePipeline:
    """Stands for the pipeline whose class says what cannot be read."""


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The miniature as huggingface_hub's cache holds a commit of user/base."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--user--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    shutil.copytree(MINIATURE / "base", repository / "snapshots" / COMMIT)
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("sdxl", BaseModel("sdxl")),
        ("SD 1.5", BaseModel("sd15")),
        ("Pony", BaseModel("sdxl")),
        ("StableDiffusionXLPipeline", BaseModel("StableDiffusionXLPipeline")),
        ("user/base@v1", BaseModel("SomePipeline", "user/base", "v1")),
        (BaseModel("flux", "user/flux"), BaseModel("flux", "user/flux")),
        (MINIATURE / "base", BaseModel("StableDiffusionPipeline")),
        (f"{MINIATURE / 'base'}/", BaseModel("StableDiffusionPipeline")),
        (MINIATURE / "base" / "unet", BaseModel("UNet2DConditionModel")),
        (MINIATURE / "prompts.txt", BaseModel("SomePipeline")),
    ],
)
def test_a_base_is_named_by_what_it_is(told: Any, expected: BaseModel) -> None:
    assert name_base(told, SomePipeline()) == expected


def test_a_repository_is_named_only_where_the_folder_is_a_commit_of_one(snapshot: Path) -> None:
    expected = BaseModel("StableDiffusionPipeline", "user/base", COMMIT)
    assert name_base(snapshot, SomePipeline()) == expected
    assert name_base("user/base", SomePipeline()) == BaseModel("StableDiffusionPipeline", "user/base")
    copied = snapshot.parent / "copy"
    snapshot.rename(copied)
    assert name_base(copied, SomePipeline()) == BaseModel("StableDiffusionPipeline")


@pytest.mark.parametrize("told", ["/nowhere/base", "~/nowhere", "../nowhere", "C:\\base", "a/b/c"])
def test_a_path_of_nothing_is_no_name(told: str) -> None:
    with pytest.raises(UsageError, match="base_model: is neither a base model's name nor a folder that is there"):
        name_base(told, SomePipeline())


@pytest.fixture
def trained(sd: Make) -> Any:
    """A pipeline with an adapter that no file says anything of."""
    pipe = sd()
    pipe.unet.add_adapter(StyleInjectConfig(r=2, target_modules=["to_q"], init_weights=False), "mine")
    return pipe


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("ponny", "no base model is called 'ponny'. Nearest is sdxl or auraflow."),
        ("sdxll", "no base model is called 'sdxll'. Nearest is sdxl."),
        ("klein", "several base models are called 'klein' (expected flux2-klein-4b or flux2-klein-9b)"),
        ("a b c", "no base model is called 'a b c'"),
        ("StableDiffusion", "several base models are called 'StableDiffusion' (expected sd15 or"),
        ("", "the base model's name is empty"),
        (" ", "the base model's name is empty"),
        (".", "the folder holds no model (expected a model_index.json or config.json, found .)"),
        (Path("pictures"), "the folder holds no model"),
    ],
)
def test_what_is_no_base_model_is_not_written_as_one(
    told: str | Path, said: str, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UsageError) as raised:
        trained.save_styleinject_weights("out", base_model=told)
    assert str(raised.value).startswith(f"base_model: {said}")
    assert len(str(raised.value)) < 400
    assert not list(tmp_path.rglob("*.safetensors"))


class Flow:
    """A pipeline of classes that are not all called a model."""

    def __init__(self) -> None:
        self.components = {"transformer": SomePipeline(), "vae": Path()}


@pytest.mark.parametrize("told", ["FluxPipeline", "UNet2DConditionModel", "CLIPTextModel", "Flow", "PosixPath"])
def test_a_class_of_a_pipeline_or_model_is_a_name(told: str) -> None:
    assert name_base(told, Flow()) == BaseModel(told)


@pytest.mark.parametrize("where", ["absolute", "relative", "home"])
def test_a_saved_file_does_not_say_where_the_base_model_lay(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    home = tmp_path / "karlotta"
    shutil.copytree(MINIATURE / "base", home / "treasury" / "base")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    told = {"absolute": home / "treasury" / "base", "relative": "treasury/base", "home": "~/treasury/base"}[where]
    file = trained.save_styleinject_weights(home / "out", base_model=told).path
    content = file.read_bytes()
    assert not any(part.encode() in content for part in ("karlotta", "treasury", str(tmp_path)))
    assert file_format.read(file).base_model == BaseModel("StableDiffusionPipeline")
    file_format.validate(file)
    assert collect_content(file).path == file


def test_a_base_model_that_is_a_path_all_the_same_is_not_written(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="names a place of one machine"):
        trained.save_styleinject_weights(tmp_path / "out", base_model=BaseModel(str(tmp_path)))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_note_of_the_home_folder_is_not_published(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "karlotta"))
    saved = file_format.read(trained.save_styleinject_weights(tmp_path, base_model="sd15").path)
    saved.about["training"] = {"data": f"{tmp_path}/karlotta/pictures"}
    noted = file_format.write(saved, tmp_path / "noted.safetensors").path
    with pytest.raises(DocumentError, match=r"training\.data: holds the path of a home folder"):
        collect_content(noted)
