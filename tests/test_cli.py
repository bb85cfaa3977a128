"""The command line as a user and a script meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import si_hub
from si_hub import __version__
from si_hub.cli import main
from si_hub.errors import UsageError
from tests.commands import STEMS, run, write_kohya
from tests.killing import python
from tests.sparse import write_zeros
from tests.systems import posix_alone


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return write_kohya(tmp_path / "style.safetensors")


def test_convert_writes_beside_the_source_and_says_what_it_did(lora: Path) -> None:
    text = run("convert", lora)
    output = lora.with_name("style.styleinject.safetensors")
    assert output.exists()
    for words in (str(output), "sd15", "modules", "exact"):
        assert words in text


def test_convert_moves_the_numbers_unchanged(lora: Path) -> None:
    run("convert", lora)
    ours = load_file(lora.with_name("style.styleinject.safetensors"))
    theirs = load_file(lora)
    layer = "unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k"
    stem = "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_k"
    np.testing.assert_array_equal(ours[f"{layer}.down.weight"], theirs[f"{stem}.lora_down.weight"])
    np.testing.assert_array_equal(ours[f"{layer}.up.weight"], theirs[f"{stem}.lora_up.weight"])
    assert len(ours) == 2 * len(STEMS)


def test_a_file_s_name_may_be_bytes_that_are_no_text(lora: Path) -> None:
    named = lora.with_name(os.fsdecode(b"style\xff.safetensors"))
    named.write_bytes(lora.read_bytes())
    assert json.loads(run("inspect", named, "--json"))["path"] == str(named)
    missing = named.with_name("gone" + named.name)
    said = CliRunner().invoke(main, ["inspect", str(missing), "--json"])
    assert json.loads(said.stdout)["file"] == str(missing)
    copied = CliRunner().invoke(main, ["convert", str(lora), "-o", str(named), "--force"])
    assert copied.stdout.startswith(str(named).replace("\udcff", r"\udcff"))


def test_convert_answers_scripts_in_json(lora: Path) -> None:
    answer = json.loads(run("convert", lora, "--json"))
    assert answer["base"] == "sd15"
    assert answer["modules"] == {"unet": 2, "text_encoder": 1}
    assert answer["ranks"] == {"4": 3}
    assert answer["alphas"] == {"2": 3}
    assert answer["exact"] is True
    assert answer["dropped"] == {}
    assert answer["tensors"] == {"used": 6, "folded": 3, "dropped": 0}


def test_two_processes_write_the_same_bytes(lora: Path, tmp_path: Path) -> None:
    written = []
    for seed in ("1", "2"):
        output = tmp_path / f"{seed}.safetensors"
        command = [sys.executable, "-m", "si_hub.cli", "convert", str(lora), "-o", str(output)]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        written.append(output.read_bytes())
    assert written[0] == written[1]


def test_a_reader_that_goes_away_is_no_error(lora: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "si_hub.cli", "inspect", str(lora)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", ""], ["convert", "a", "-o", ""], ["inspect", ""], ["validate", ""],
        ["convert", "lora.safetensors", "--base", ""], ["inspect", "lora.safetensors", "--base", ""],
    ],
)  # fmt: skip
def test_an_empty_path_is_a_usage_error_and_not_the_current_folder(
    arguments: list[str], lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lora.parent)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "the path is empty" in result.stderr
    assert os.listdir(lora.parent) == [lora.name]


def test_an_empty_base_in_python_is_a_usage_error_too(lora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lora.parent)
    with pytest.raises(UsageError, match="base: the base model's name is empty"):
        si_hub.convert(lora, base="")
    with pytest.raises(UsageError, match="base: the base model's name is empty"):
        si_hub.inspect(lora, base="")
    assert os.listdir(lora.parent) == [lora.name]


def test_convert_writes_into_a_folder_under_its_usual_name(lora: Path) -> None:
    folder = lora.parent / "ordner mit ü"
    folder.mkdir()
    assert str(folder / "style.styleinject.safetensors") in run("convert", lora, "-o", folder)
    result = CliRunner().invoke(main, ["convert", str(lora), "-o", str(folder)])
    assert result.exit_code == 8
    assert "style.styleinject.safetensors: already exists" in result.stderr


def test_a_partial_conversion_names_what_it_left_out(lora: Path) -> None:
    tensors = load_file(lora)
    tensors["lora_unet_no_such_module.lora_down.weight"] = np.ones((4, 8), np.float16)
    tensors["lora_unet_no_such_module.lora_up.weight"] = np.ones((8, 4), np.float16)
    save_file(tensors, lora)
    assert CliRunner().invoke(main, ["convert", str(lora)]).exit_code == 5
    text = run("convert", lora, "--allow-partial", "--base", "sd15")
    assert "lora_unet_no_such_module.lora_down.weight" in text


@pytest.mark.parametrize("command", [[], ["convert"], ["inspect"], ["validate"], ["pull"], ["push"], ["distill"]])
def test_help_shows_examples(command: list[str]) -> None:
    assert "Examples:" in run(*command, "--help")


def test_the_version_is_the_packages() -> None:
    assert __version__ in run("--version")


def test_an_unknown_option_is_a_usage_error(lora: Path) -> None:
    assert CliRunner().invoke(main, ["convert", str(lora), "--rnak", "4"]).exit_code == 2


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A LoRA of 1.6 GB, most of it a hole in the file, so that converting it takes a while."""
    stem, rank = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", 312_500
    shapes = {f"{stem}.lora_down.weight": (rank, 1280), f"{stem}.lora_up.weight": (1280, rank)}
    return write_zeros(tmp_path / "large.safetensors", {name: ("F16", shape) for name, shape in shapes.items()})


@posix_alone
def test_ctrl_c_ends_with_130_and_leaves_nothing(large: Path) -> None:
    process = python("-m", "si_hub.cli", "convert", large, "--base", "sd15")
    assert process.end(lambda: list(large.parent.glob(".si-hub-*")), signal.SIGINT) == 130
    errors = process.err()
    assert errors.count("\n") == 1
    assert "interrupted" in errors
    assert [entry.name for entry in large.parent.iterdir()] == ["large.safetensors"]


@posix_alone
def test_a_progress_bar_is_drawn_on_a_terminal_and_nowhere_else(lora: Path, tmp_path: Path) -> None:
    def errors_of(stderr: int) -> None:
        output = tmp_path / "out.safetensors"
        command = [sys.executable, "-m", "si_hub.cli", "convert", str(lora), "-o", str(output), "--force"]
        environment = {**os.environ, "TERM": "xterm"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)

    import pty

    leader, follower = pty.openpty()
    errors_of(follower)
    assert b"converting" in os.read(leader, 65536)
    reader, writer = os.pipe()
    errors_of(writer)
    os.close(writer)
    assert os.read(reader, 65536) == b""


@pytest.mark.parametrize("module", ["si_hub", "si_hub.cli"])
def test_the_package_is_the_command(module: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"si-hub, version {__version__}\n"
    command = [sys.executable, "-m", module, "validate", str(tmp_path / "no")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stderr.startswith("si-hub: ")


def test_the_package_says_its_commands_name_in_help() -> None:
    command = [sys.executable, "-m", "si_hub", "convert", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: si-hub convert ")
