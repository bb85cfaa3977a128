"""Folders, patterns and lists of adapters; one that fails keeps no other from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import si_hub
from si_hub.cli import main
from si_hub.errors import FileAccessError, MissingFile
from si_hub.exporting.many import export_all, find_adapters, is_one_adapter

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def kohya(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    held = {f"{STEM}.lora_down.weight": np.ones((2, 320), "<f2"), f"{STEM}.lora_up.weight": np.ones((320, 2), "<f2")}
    save_file(held, file)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two adapters, one of them in both formats, in folders; a model of its own kind and a broken file."""
    root = tmp_path / "loras"
    kohya(root / "a.safetensors")
    si_hub.convert(kohya(root / "styles" / "b.safetensors"), base="sd15")
    kohya(root / "styles" / "b.comfy.safetensors")
    save_file({"decoder.conv_in.weight": np.zeros((4, 4, 3, 3), "<f2")}, root / "vae.safetensors")
    (root / "broken.safetensors").write_bytes(b"nothing")
    return root


def test_everything_of_a_folder_but_exports_is_a_source(folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path, _ in find_adapters([folder])]
    assert names == ["a.safetensors", "broken.safetensors", "vae.safetensors", "styles/b.styleinject.safetensors"]
    assert [path.name for path, _ in find_adapters([folder / "*.safetensors", folder / "a.safetensors"])] == [
        "a.safetensors", "broken.safetensors", "vae.safetensors",
    ]  # fmt: skip
    with pytest.raises(MissingFile, match="no adapter there"):
        find_adapters([folder / "*.bin"])
    assert not is_one_adapter([folder])
    assert is_one_adapter([folder / "a.safetensors"])


def test_subfolders_are_kept_and_failures_told(folder: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    items = list(
        export_all([folder], tmp_path / "out", to="diffusers", base="sd15", progress=lambda *at: done.append(at))
    )
    assert {item.source.name: item.status for item in items} == {
        "a.safetensors": "exported", "broken.safetensors": "failed", "vae.safetensors": "skipped",
        "b.styleinject.safetensors": "exported",
    }  # fmt: skip
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.safetensors"))
    assert found == ["a.diffusers.safetensors", "styles/b.diffusers.safetensors"]
    assert done[-1] == (4, 4)
    with pytest.raises(FileAccessError, match="several adapters want a folder"):
        list(export_all([folder], folder / "a.safetensors", to="kohya"))


def test_the_command_prints_a_line_each_and_exits_as_the_failure_does(folder: Path) -> None:
    command = ["export", str(folder), "--to", "kohya", "--base", "sd15"]
    ended = CliRunner().invoke(main, [*command, "--json", "--dry-run"])
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["exported", "failed", "skipped", "exported"]
    assert lines[1]["error"] == "TruncatedFile" or lines[1]["error"] == "NotSafetensors"
    assert ended.exit_code == lines[1]["exit_code"]
    ended = CliRunner().invoke(main, command)
    assert ended.stdout.splitlines()[-1] == "4 sources: 2 exported, 1 failed, 1 skipped"
    assert (folder / "styles" / "b.kohya.safetensors").exists()
