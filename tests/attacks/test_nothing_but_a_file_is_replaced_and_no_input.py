"""Forced or not, an output takes the place of regular files alone, and of none that it is made from."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from si_hub.conversion import convert
from si_hub.distill import distill
from si_hub.errors import FileAccessError
from si_hub.report.distillation import Distillation
from si_hub.report.writing import write_report
from si_hub.storage.files import atomic_file
from tests.commands import write_kohya
from tests.miniature import BASE, MINIATURE, NEON
from tests.places import ROOT
from tests.systems import IS_ROOT, posix_alone


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_kohya(tmp_path / "lora.safetensors")


@posix_alone
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
def test_a_pipe_a_socket_and_a_device_stay(kind: str, lora: Path, tmp_path: Path) -> None:
    place = tmp_path / "out.safetensors"
    if kind == "a device" and not IS_ROOT:
        pytest.skip("only root makes devices")
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "a pipe":
            os.mkfifo(place)
        elif kind == "a socket":
            server.bind(str(place))
        else:
            os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        before = place.lstat()
        with pytest.raises(FileAccessError, match="is not a regular file, and is not replaced"):
            convert(lora, place, base="sd15", force=True)
    assert (place.lstat().st_ino, place.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.safetensors", "out.safetensors"]


@posix_alone
def test_a_pipe_that_appears_while_a_file_is_written_stays(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="not a regular file"), atomic_file(tmp_path / "out", overwrite=True):
        os.mkfifo(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert stat.S_ISFIFO((tmp_path / "out").lstat().st_mode)


@posix_alone
def test_a_report_does_not_replace_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.html")
    with pytest.raises(FileAccessError, match="not a regular file"):
        write_report(Distillation("nothing"), tmp_path / "report.html", overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "report.html").lstat().st_mode)


@pytest.mark.parametrize("way", ["its name", "a way around", "a second name"])
def test_the_configuration_beside_a_source_stays(way: str, lora: Path, tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 2}', encoding="utf-8")
    around, second = tmp_path / "x" / ".." / config.name, tmp_path / "two"
    output = {"its name": config, "a way around": around, "a second name": second}
    (tmp_path / "x").mkdir()
    if way == "a second name":
        os.link(config, output[way])
    with pytest.raises(FileAccessError, match="is the configuration of the source"):
        convert(lora, output[way], base="sd15", force=True)
    assert config.read_text(encoding="utf-8").startswith('{"peft_type"')


def test_a_file_of_the_base_stays(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(BASE, base)
    with pytest.raises(FileAccessError, match="is the base model, or a file of it"):
        convert(MINIATURE / "peers" / "kohya_lora.safetensors", base / "unet" / "config.json", base=base, force=True)
    assert (base / "unet" / "config.json").read_bytes() == (BASE / "unet" / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["prompts.html", "images/one.png"])
def test_what_a_distillation_is_told_by_is_no_place_for_its_report(name: str, tmp_path: Path) -> None:
    prompts, images = tmp_path / "prompts.html", tmp_path / "images"
    prompts.write_text("a cat\n", encoding="utf-8")
    images.mkdir()
    shutil.copy(ROOT / "docs" / "stack.png", images / "one.png")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(FileAccessError, match="is what the report is made from"):
        distill(
            BASE, NEON, output=tmp_path / "out.safetensors", method="trained", prompts=prompts, images=str(images),
            report=tmp_path / name, force=True,
        )  # fmt: skip
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("there", [True, False])
def test_a_report_does_not_take_the_place_of_the_adapter(there: bool, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    output, report = tmp_path / "out.html", tmp_path / "x" / ".." / "out.html"
    if there:
        output.write_bytes(b"old")
    with pytest.raises(FileAccessError, match="is what the report is made from"):
        distill(BASE, NEON, output=output, method="svd", report=report, force=True)
    assert not there or output.read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["a file", pytest.param("a link", marks=posix_alone)])
def test_a_regular_file_is_replaced_and_a_link_too(kind: str, lora: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "old.safetensors", tmp_path / "other"
    other.write_bytes(b"old")
    if kind == "a link":
        output.symlink_to(other)
    else:
        shutil.copy(other, output)
    convert(lora, output, base="sd15", force=True)
    assert load_file(output)
    assert not output.is_symlink()
    assert other.read_bytes() == b"old"
