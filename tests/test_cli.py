"""The command line as a user and a script meet it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from si_hub import __version__
from si_hub.cli import main
from tests.killing import python
from tests.sparse import write_zeros

STEMS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn2_to_k": (320, 768),
    "lora_te_text_model_encoder_layers_11_mlp_fc1": (3072, 768),
}


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A kohya LoRA of Stable Diffusion 1.5: three modules, rank 4, alpha 2."""
    random = np.random.default_rng(5)
    tensors = {}
    for stem, (out, wide) in STEMS.items():
        tensors[f"{stem}.lora_down.weight"] = random.standard_normal((4, wide)).astype(np.float16)
        tensors[f"{stem}.lora_up.weight"] = random.standard_normal((out, 4)).astype(np.float16)
        tensors[f"{stem}.alpha"] = np.array(2, np.float16)
    file = tmp_path / "style.safetensors"
    save_file(tensors, file, metadata={"ss_output_name": "my style", "ss_network_module": "networks.lora"})
    return file


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


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


def test_inspect_describes_a_foreign_file(lora: Path) -> None:
    text = run("inspect", lora)
    for words in ("adapter", "sd15", "unet", "2 modules, rank 4, alpha 2", "ss_output_name = my style"):
        assert words in text


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
    answer = {Path(item["path"]).name: item for item in json.loads(run("inspect", lora.parent, "--json"))}
    assert answer["style.safetensors"]["kind"] == "adapter"
    assert answer["broken.safetensors"]["kind"] == "unreadable"
    assert "empty" in answer["broken.safetensors"]["problem"]["problem"]


def test_inspect_says_what_a_conversion_would_drop_and_why(lora: Path) -> None:
    tensors = load_file(lora)
    tensors["lora_unet_no_such_module.lora_down.weight"] = np.ones((4, 8), np.float16)
    tensors["lora_unet_no_such_module.lora_up.weight"] = np.ones((8, 4), np.float16)
    save_file(tensors, lora)
    answer = json.loads(run("inspect", lora, "--json"))
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


def test_a_reader_that_goes_away_is_no_error(lora: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "si_hub.cli", "inspect", str(lora)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


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


@pytest.mark.parametrize("arguments", [["convert", ""], ["convert", "a", "-o", ""], ["inspect", ""], ["validate", ""]])
def test_an_empty_path_is_a_usage_error_and_not_the_current_folder(
    arguments: list[str], lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lora.parent)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "the path is empty" in result.stderr
    assert os.listdir(lora.parent) == [lora.name]


def test_convert_writes_into_a_folder_under_its_usual_name(lora: Path) -> None:
    folder = lora.parent / "ordner mit ü"
    folder.mkdir()
    assert str(folder / "style.styleinject.safetensors") in run("convert", lora, "-o", folder)
    result = CliRunner().invoke(main, ["convert", str(lora), "-o", str(folder)])
    assert result.exit_code == 8
    assert "style.styleinject.safetensors: already exists" in result.stderr


def test_validate_refuses_a_foreign_file_by_name(lora: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(lora)])
    assert result.exit_code == 3
    assert "si-hub convert" in result.stderr


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


def test_ctrl_c_ends_with_130_and_leaves_nothing(large: Path) -> None:
    process = python("-m", "si_hub.cli", "convert", large, "--base", "sd15")
    assert process.end(lambda: list(large.parent.glob(".si-hub-*")), signal.SIGINT) == 130
    errors = process.err()
    assert errors.count("\n") == 1
    assert "interrupted" in errors
    assert [entry.name for entry in large.parent.iterdir()] == ["large.safetensors"]


def test_a_progress_bar_is_drawn_on_a_terminal_and_nowhere_else(lora: Path, tmp_path: Path) -> None:
    def errors_of(stderr: int) -> None:
        output = tmp_path / "out.safetensors"
        command = [sys.executable, "-m", "si_hub.cli", "convert", str(lora), "-o", str(output), "--force"]
        environment = {**os.environ, "TERM": "xterm"}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)

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
