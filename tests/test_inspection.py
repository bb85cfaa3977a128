"""What a file is said to be, from its header alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from si_hub.cli import main
from tests.commands import run, write_kohya
from tests.systems import posix_alone


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_kohya(tmp_path / "style.safetensors")


def test_inspect_describes_a_foreign_file(lora: Path) -> None:
    text = run("inspect", lora)
    for words in ("adapter", "sd15", "unet", "2 modules, rank 4, alpha 2", "ss_output_name = my style"):
        assert words in text


@posix_alone
def test_inspect_reads_a_header_once_and_imports_neither_torch_nor_numpy(lora: Path) -> None:
    """All of a file's header is in the first read: what follows are the three alphas."""
    script = (
        "import os, sys; reads = []; pread = os.pread; os.pread = lambda *a: reads.append(a[1]) or pread(*a); "
        "from si_hub.inspection import inspect; inspect(sys.argv[1]).as_text(); "
        "print(sorted(reads)[:3], len(reads), *{'torch', 'numpy', 'jsonschema'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(lora)], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[2, 2, 2] 4"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("model.diffusion_model.out.2.weight", "a full checkpoint"), ("control_model.x.weight", "a ControlNet"),
     ("bundle_emb.ink.string_to_param.*", "a textual inversion alone"), ("conv.rezero", "unknown")],
)  # fmt: skip
def test_inspect_says_what_a_file_is_that_is_no_adapter(name: str, kind: str, tmp_path: Path) -> None:
    save_file({name: np.ones((4, 4), np.float16)}, tmp_path / "a.safetensors")
    answer = json.loads(run("inspect", tmp_path / "a.safetensors", "--json"))
    assert answer["kind"] == kind
    assert answer["problem"]["key"] == name


def test_inspect_shows_people_some_of_much_metadata_and_scripts_all(lora: Path) -> None:
    save_file(load_file(lora), lora, metadata={f"key{number:04}": "v" for number in range(500)})
    lines = run("inspect", lora).splitlines()
    assert sum(" = v" in line for line in lines) == 80
    assert lines[-1].strip() == "... and 420 more, shown by --json"
    assert len(json.loads(run("inspect", lora, "--json"))["metadata"]) == 500


def test_inspect_describes_a_converted_file(lora: Path) -> None:
    run("convert", lora)
    answer = json.loads(run("inspect", lora.with_name("style.styleinject.safetensors"), "--json"))
    assert answer["kind"] == "styleinject"
    assert answer["components"]["text_encoder"]["modules"] == 1
    assert answer["document"]["title"] == "my style"


def test_inspect_lists_every_file_of_a_folder_and_names_the_broken_one(lora: Path) -> None:
    lora.with_name("broken.safetensors").write_bytes(b"")
    result = CliRunner().invoke(main, ["inspect", str(lora.parent), "--json"])
    assert result.exit_code == 3
    answer = {Path(item["path"]).name: item for item in map(json.loads, result.stdout.splitlines())}
    assert answer["style.safetensors"]["kind"] == "adapter"
    assert answer["broken.safetensors"]["kind"] == "unreadable"
    assert "empty" in answer["broken.safetensors"]["problem"]["problem"]


def test_inspect_says_what_a_conversion_would_drop_and_why(lora: Path) -> None:
    tensors = load_file(lora)
    tensors["lora_unet_no_such_module.lora_down.weight"] = np.ones((4, 8), np.float16)
    tensors["lora_unet_no_such_module.lora_up.weight"] = np.ones((8, 4), np.float16)
    save_file(tensors, lora)
    answer = json.loads(run("inspect", lora, "--base", "sd15", "--json"))
    assert set(answer["dropped"]) == {
        "lora_unet_no_such_module.lora_down.weight",
        "lora_unet_no_such_module.lora_up.weight",
    }
    assert "lora_unet_no_such_module" in answer["problem"]["key"]


def test_validate_passes_what_convert_wrote_and_fails_one_flipped_bit(lora: Path) -> None:
    run("convert", lora)
    output = lora.with_name("style.styleinject.safetensors")
    assert "valid" in run("validate", output)
    raw = bytearray(output.read_bytes())
    raw[-1] ^= 1
    output.write_bytes(raw)
    result = CliRunner().invoke(main, ["validate", str(output)])
    assert result.exit_code == 6
    assert str(output) in result.stderr


def test_validate_gives_every_file_its_verdict(lora: Path) -> None:
    run("convert", lora)
    output = lora.with_name("style.styleinject.safetensors")
    result = CliRunner().invoke(main, ["validate", str(lora), str(output), str(lora.parent / "gone")])
    assert result.exit_code == 3
    assert result.stdout.startswith(f"{output}: valid")
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [str(lora), str(lora.parent / "gone")]
    result = CliRunner().invoke(main, ["validate", str(lora), str(output), "--json"])
    assert result.exit_code == 3
    assert [(item["path"], item["valid"]) for item in json.loads(result.stdout)] == [
        (str(lora), False), (str(output), True),
    ]  # fmt: skip


def test_validate_refuses_a_foreign_file_by_name(lora: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(lora)])
    assert result.exit_code == 3
    assert "si-hub convert" in result.stderr
