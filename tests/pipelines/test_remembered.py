"""Conversions that a process remembers: what is not converted again, and that it is never another one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from si_hub import converters
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import MissingFile
from si_hub.pipelines import converting, remembered
from si_hub.pipelines.sources import FoundAdapter
from si_hub.storage.tensors import Tensor
from tests.miniature import BASE, KOHYA_LORA
from tests.pipelines.test_converted import load, same
from tests.pipelines.test_converting import DORA, LOHA

NAME = "0" * 40


@pytest.fixture(scope="module")
def pipe() -> Any:
    return StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)


@pytest.fixture(autouse=True)
def _afresh(pipe: Any) -> Iterator[None]:
    remembered.forget_files()
    yield
    pipe.unload_styleinject_weights()
    remembered.forget_files()


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return Path(shutil.copy(KOHYA_LORA, tmp_path / "lora.safetensors"))


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing can be converted."""
    monkeypatch.delattr(converters, "convert_source")


def test_a_file_that_is_loaded_again_is_not_converted_again(
    pipe: Any, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(pipe, lora)
    report = pipe.load_styleinject_weights(lora, "again")
    forbid(monkeypatch)
    assert same(first, load(pipe, lora))
    assert pipe.load_styleinject_weights(lora, "again").notes == report.notes


def test_it_is_the_same_one_for_another_pipeline_of_the_base(
    pipe: Any, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(pipe, lora)
    forbid(monkeypatch)
    other = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    assert same(first, load(other, lora))


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_file_that_was_written_anew_is_converted_anew(pipe: Any, lora: Path, keep_time: bool) -> None:
    first, before = load(pipe, lora), lora.stat()
    save_file({name: tensor * 2 for name, tensor in load_file(lora).items()}, lora)
    if keep_time:
        os.utime(lora, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load(pipe, lora)
    assert not same(first, second)


def test_a_file_that_is_written_anew_between_looking_and_converting_is_taken_as_it_is(pipe: Any, lora: Path) -> None:
    found = FoundAdapter(lora, "", header=remembered.known_header(lora))
    save_file({name: tensor * 2 for name, tensor in load_file(lora).items()}, lora)
    for _ in range(2):
        converted = converting.convert_for_pipeline(pipe, found).adapter
        tensors = [layer.tensors for layer in converted.components["unet"].layers.values()]
        assert all(bool(tensor.torch().isfinite().all()) for leaves in tensors for tensor in leaves.values())


def test_what_is_remembered_of_a_file_that_has_changed_since_is_not_given_out(lora: Path) -> None:
    tensor = remembered.known_header(lora).tensors
    adapter = Adapter(BaseModel("sd15"), {"unet": Component(None, {"a": Layer(dict(list(tensor.items())[:1]))})})
    remembered.remember_conversion(lora, NAME, adapter)
    assert remembered.recall_conversion(lora, NAME, None) is adapter
    save_file({name: value * 2 for name, value in load_file(lora).items()}, lora)
    assert remembered.recall_conversion(lora, NAME, None) is None


def test_a_file_that_is_gone_is_missing(pipe: Any, lora: Path) -> None:
    load(pipe, lora)
    lora.unlink()
    with pytest.raises(MissingFile):
        load(pipe, lora)


def test_a_path_is_where_it_leads_now(pipe: Any, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file, under a path that is written the same and means another place."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "lora.safetensors").hardlink_to(lora)
    monkeypatch.chdir(tmp_path / "one")
    first = load(pipe, Path("lora.safetensors"))
    (tmp_path / "one").rename(tmp_path / "three")
    (tmp_path / "two").rename(tmp_path / "one")
    (tmp_path / "three" / "lora.safetensors").rename(tmp_path / "one" / "lora.safetensors")
    monkeypatch.chdir(tmp_path / "one")
    assert same(first, load(pipe, Path("lora.safetensors")))


def test_what_is_a_function_of_the_weights_follows_them(pipe: Any) -> None:
    first = load(pipe, DORA)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(2)
    second = load(pipe, DORA)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.div_(2)
    assert not same(first, second)


def test_what_was_left_out_is_told_again(pipe: Any, lora: Path) -> None:
    save_file({**load_file(lora), "lora_unet_nowhere.lora_down.weight": torch.ones(2, 2)}, lora)
    pipe.load_styleinject_weights(lora, "style", strict=False)
    pipe.unload_styleinject_weights()
    assert any("left out" in note for note in pipe.load_styleinject_weights(lora, "style", strict=False).notes)


def test_what_is_kept_on_the_disk_is_remembered_while_it_is_there(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SI_HUB_CONVERTED", str(tmp_path / "kept"))
    first = load(pipe, LOHA)
    [file] = (tmp_path / "kept").rglob("*.safetensors")
    os.utime(file.parent, (0, 0))
    assert same(first, load(pipe, LOHA))
    assert file.parent.stat().st_mtime > 0
    file.unlink()
    assert same(first, load(pipe, LOHA))
    assert file.is_file()


def test_the_latest_are_remembered_and_no_computed_numbers(tmp_path: Path) -> None:
    def adapter(tensor: Tensor) -> Adapter:
        return Adapter(BaseModel("sd15"), {"unet": Component(None, {"a": Layer({"weight_delta": tensor})})})

    held = adapter(Tensor.from_bytes("F32", (1, 1), b"\0\0\0\0"))
    for number in range(remembered.MOST + 1):
        remembered.remember_conversion(tmp_path / str(number), NAME, held)
        assert remembered.recall_conversion(tmp_path / "0", NAME, None) is held  # asked for, so never the oldest
    assert remembered.recall_conversion(tmp_path / "1", NAME, None) is None
    assert remembered.recall_conversion(tmp_path / str(remembered.MOST), NAME, None) is held
    remembered.remember_conversion(tmp_path / "a", NAME, adapter(Tensor.compute((1, 1), lambda: torch.zeros(1, 1))))
    assert remembered.recall_conversion(tmp_path / "a", NAME, None) is None


def test_a_header_is_read_once_while_its_file_is_as_it_was(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = remembered.known_header(lora)
    with monkeypatch.context() as without:
        without.delattr(remembered, "read_safetensors")
        assert remembered.known_header(lora) is first
    tensors = load_file(lora)
    save_file(dict(list(tensors.items())[1:]), lora)
    assert len(remembered.known_header(lora).tensors) == len(first.tensors) - 1
    lora.unlink()
    with pytest.raises(MissingFile):
        remembered.known_header(lora)
