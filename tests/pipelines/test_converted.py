"""Conversions that are kept: what is, what is not, and that it is never another one that comes back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import si_hub
from si_hub import converters
from si_hub.errors import BaseMismatch
from si_hub.pipelines import converted, converting
from tests.miniature import BASE, KOHYA_LORA
from tests.pipelines.test_converting import DORA, LOHA, PEERS, read_loaded


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that conversions are kept in."""
    monkeypatch.setenv("SI_HUB_CONVERTED", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)


@pytest.fixture(autouse=True)
def _unloaded(pipe: Any) -> Any:
    yield
    pipe.unload_styleinject_weights()


def list_kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors")) if folder.exists() else []


def load(pipe: Any, file: Path, **options: Any) -> dict[str, torch.Tensor]:
    pipe.unload_styleinject_weights()
    pipe.load_styleinject_weights(file, "style", **options)
    return read_loaded(pipe, "style")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_computed_once_is_not_computed_again(pipe: Any, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SI_HUB_CONVERTED", "off")
    plain = load(pipe, LOHA)
    assert list_kept(kept) == []
    monkeypatch.setenv("SI_HUB_CONVERTED", str(kept))
    first = load(pipe, LOHA)
    assert len(list_kept(kept)) == 1
    monkeypatch.delattr(converters, "convert_source")
    second = load(pipe, LOHA)
    assert same(plain, first)
    assert same(plain, second)
    report = pipe.load_styleinject_weights(LOHA)
    assert report.notes == ("converted in memory, exactly: loha for StableDiffusionPipeline (lora_unet_ diffusers)",)


@pytest.mark.parametrize("file", [KOHYA_LORA, DORA], ids=["nothing is computed", "a function of the base's weights"])
def test_what_is_not_worth_it_or_not_of_the_file_alone_is_not_kept(file: Path, pipe: Any, kept: Path) -> None:
    load(pipe, file)
    assert list_kept(kept) == []


def test_what_is_left_out_of_is_not_kept(pipe: Any, kept: Path, tmp_path: Path) -> None:
    save_file({**load_file(LOHA), "lora_unet_nowhere.lora_down.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    load(pipe, tmp_path / "a.safetensors", strict=False)
    assert list_kept(kept) == []


def test_a_file_that_was_written_anew_is_another_one(pipe: Any, kept: Path, tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    tensors = load_file(LOHA)
    save_file(tensors, file)
    first = load(pipe, file)
    kind = file.stat()
    save_file({name: -value if name.endswith("hada_w1_a") else value for name, value in tensors.items()}, file)
    os.utime(file, ns=(kind.st_atime_ns, kind.st_mtime_ns))
    assert file.stat().st_size == kind.st_size
    second = load(pipe, file)
    assert not same(first, second)
    assert len(list_kept(kept)) == 2


def test_another_base_model_is_another_conversion(pipe: Any, kept: Path) -> None:
    load(pipe, LOHA)
    load(pipe, LOHA, convert=BASE)
    assert len(list_kept(kept)) == 2
    pipe.text_encoder, encoder = None, pipe.text_encoder
    load(pipe, LOHA)
    pipe.text_encoder = encoder
    assert len(list_kept(kept)) == 3


def test_what_was_kept_for_a_base_that_was_named_does_not_hide_what_metadata_say(
    pipe: Any, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the miniature were a base that metadata can contradict."""
    save_file(load_file(LOHA), tmp_path / "a.safetensors", {"ss_base_model_version": "flux1"})
    monkeypatch.setattr(converting, "rank_alike", lambda own: ["sd15"])
    load(pipe, tmp_path / "a.safetensors", convert=BASE)
    assert len(list_kept(kept)) == 1
    with pytest.raises(BaseMismatch, match="its metadata name another base model"):
        load(pipe, tmp_path / "a.safetensors")


def test_what_is_saved_is_what_convert_writes(pipe: Any, kept: Path, tmp_path: Path) -> None:
    written = si_hub.convert(LOHA, tmp_path / "converted.safetensors", base=BASE)
    for _ in range(2):
        load(pipe, LOHA)
        saved = pipe.save_styleinject_weights(tmp_path / "saved", overwrite=True)
        assert (saved.identity, saved.tensors_sha256) == (written.identity, written.sha256)
    [file] = list_kept(kept)
    shutil.rmtree(kept)
    assert not file.exists()
    again = pipe.save_styleinject_weights(tmp_path / "again")
    assert again.tensors_sha256 == written.sha256


def test_a_broken_one_is_made_anew(pipe: Any, kept: Path) -> None:
    whole = load(pipe, LOHA)
    [file] = list_kept(kept)
    data = file.read_bytes()
    file.write_bytes(data[:1000])
    assert same(load(pipe, LOHA), whole)
    assert file.read_bytes() == data


def test_the_least_used_make_room_and_nothing_else_is_touched(
    pipe: Any, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.safetensors")
        shutil.copyfile(LOHA, files[-1])
    (kept / "mine").mkdir(parents=True)
    (kept / "mine" / "large.bin").write_bytes(bytes(10_000_000))
    load(pipe, files[0])
    [first] = list_kept(kept)
    load(pipe, files[1])
    load(pipe, files[0])
    assert len(list_kept(kept)) == 2
    os.utime(first.parent, ns=(2**62, 2**62))  # used last, whatever the clock's steps are
    monkeypatch.setattr(converted, "MOST_BYTES", int(2.5 * first.stat().st_size))
    load(pipe, files[2])
    assert len(list_kept(kept)) == 2
    assert first in list_kept(kept)
    assert (kept / "mine" / "large.bin").exists()
    monkeypatch.setattr(converted, "MOST_BYTES", 1000)
    shutil.copyfile(LOHA, tmp_path / "more.safetensors")
    load(pipe, tmp_path / "more.safetensors")
    assert len(list_kept(kept)) == 2


def test_a_disk_that_takes_nothing_costs_nothing_but_time(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SI_HUB_CONVERTED", str(tmp_path / "file" / "kept"))
    assert load(pipe, LOHA)


def test_they_lie_beside_the_hub_s_cache(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SI_HUB_CONVERTED")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    load(pipe, PEERS / "lycoris_loha.safetensors")
    [file] = list_kept(tmp_path)
    assert file.parent.parent == tmp_path / "si-hub" / "converted"
