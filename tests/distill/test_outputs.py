"""Where a distillation may write: never over what it reads, and nothing is found out too late."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from si_hub import format as file_format
from si_hub.distill import distill
from si_hub.distill.command import output_of
from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.storage.header import read_safetensors
from tests.miniature import INK, copy_base, tune_attentions


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return copy_base(tmp_path / "base")


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    return Path(shutil.copy(INK, tmp_path / "ink.safetensors"))


def itself(base: Path, tuned: Path) -> Path:
    return tuned


def by_another_way(base: Path, tuned: Path) -> Path:
    return base / ".." / tuned.name


def hard_link(base: Path, tuned: Path) -> Path:
    os.link(tuned, tuned.with_name("link.safetensors"))
    return tuned.with_name("link.safetensors")


def symbolic_link(base: Path, tuned: Path) -> Path:
    tuned.with_name("link.safetensors").symlink_to(tuned)
    return tuned.with_name("link.safetensors")


def of_the_base(base: Path, tuned: Path) -> Path:
    return next((base / "unet").glob("*.safetensors"))


@pytest.mark.parametrize("place", [itself, by_another_way, hard_link, symbolic_link, of_the_base])
def test_no_model_is_overwritten_even_by_force(base: Path, tuned: Path, place: Callable[[Path, Path], Path]) -> None:
    output = place(base, tuned)
    before = {file: file.read_bytes() for file in base.parent.rglob("*.safetensors")}
    with pytest.raises(FileAccessError, match="is one of the models"):
        distill(base, tuned, output=output, method="svd", rank=1, force=True)
    assert {file: file.read_bytes() for file in base.parent.rglob("*.safetensors")} == before


def test_a_folder_that_is_not_there_and_prompts_that_are_none_stop_everything_before_any_work(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(MissingFile, match="folder does not exist"):
        distill(base, tuned, output=tmp_path / "nowhere" / "x.safetensors", method="svd")
    with pytest.raises(MissingFile, match="prompts"):
        distill(base, tuned, prompts=tmp_path / "nothing.txt")
    with pytest.raises(UsageError, match="no such option"):
        distill(base, tuned, method="svd", steps=100)
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / ".ink.styleinject.safetensors.work"}


def test_by_default_the_adapter_lies_beside_the_checkpoint_or_in_the_given_folder(base: Path, tuned: Path) -> None:
    (base.parent / "out").mkdir()
    for output, place in ((None, base.parent), (base.parent / "out", base.parent / "out")):
        made = distill(base, tuned, output=output, method="svd", rank=1)
        assert made.path == place / "ink.styleinject.safetensors"
        assert made.path.is_file()


@pytest.mark.parametrize(("inside", "written"), [("", "."), ("unet", ".."), ("", "../ink/.")])
def test_a_folder_that_one_is_in_goes_by_its_name(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, written: str
) -> None:
    monkeypatch.chdir(tune_attentions(tmp_path, "ink") / inside)
    beside = distill(base, written, method="svd", rank=1)
    assert beside.path.resolve() == (tmp_path / "ink.styleinject.safetensors").resolve()
    given = distill(base, written, output=tmp_path / "given.safetensors", method="svd", rank=1)
    for made in (beside, given):
        document = file_format.read_document(read_safetensors(made.path))
        assert document["provenance"]["source"]["name"] == "ink"


def test_the_output_beside_a_root_is_a_file_in_it() -> None:
    assert output_of(Path("/"), None) == Path("/model.styleinject.safetensors")
