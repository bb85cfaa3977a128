"""Errors speak to whoever called: the command line's options there, keywords in Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import si_hub
from si_hub import words
from si_hub.cli import main
from si_hub.errors import SiHubError

#: A call of `si_hub.words` → Python's words, the command line's.
WORDS = {
    "option('base')": ("base=", "--base"),
    "option('weight_name', 'FILE')": ("weight_name=FILE", "--weight-name FILE"),
    "option('method', 'svd')": ("method='svd'", "--method svd"),
    "option('output')": ("output=", "-o"),
    "switch('allow_partial')": ("allow_partial=True", "--allow-partial"),
    "switch('force', python='overwrite')": ("overwrite=True", "--force"),
    "setting('pieces', 'N')": ("pieces=N", "--set pieces=N"),
    "setting('pieces', '8')": ("pieces=8", "--set pieces=8"),
    "label('weight_name')": ("weight_name", "--weight-name"),
    "label('force', python='overwrite')": ("overwrite", "--force"),
    "call('convert', 'a b.bin', base='sdxl')": (
        "si_hub.convert('a b.bin', base='sdxl')", "si-hub convert 'a b.bin' --base sdxl",
    ),
    "call('pull', 'user/style', local_dir='FOLDER', revision=None)": (
        "si_hub.pull('user/style', local_dir=FOLDER)", "si-hub pull user/style --local-dir FOLDER",
    ),
    "call('distill', 'BASE', 'TUNED')": ("si_hub.distill.distill(BASE, TUNED)", "si-hub distill BASE TUNED"),
}  # fmt: skip


@pytest.mark.parametrize("call", WORDS)
def test_a_text_says_an_option_as_its_reader_writes_it(call: str) -> None:
    in_python, at_command_line = WORDS[call]
    assert eval(f"words.{call}") == in_python
    with words.at_command_line():
        assert eval(f"words.{call}") == at_command_line
    assert eval(f"words.{call}") == in_python


def test_a_command_that_fails_leaves_python_its_words() -> None:
    with pytest.raises(ZeroDivisionError), words.at_command_line():
        1 / 0  # noqa: B018
    assert words.option("base") == "base="


def test_a_strangers_name_is_quoted_in_a_command_and_in_a_call() -> None:
    with words.at_command_line():
        assert words.call("convert", "x; rm -r ~") == "si-hub convert 'x; rm -r ~'"
    assert words.call("convert", "x'); evil('") == """si_hub.convert("x'); evil('")"""


@pytest.fixture
def existing(tmp_path: Path) -> tuple[Path, Path]:
    """A LoRA whose output is there already."""
    source, target = tmp_path / "lora.safetensors", tmp_path / "lora.styleinject.safetensors"
    source.write_bytes(b"\0" * 16)
    target.write_bytes(b"")
    return source, target


def test_one_error_in_python_and_at_the_command_line(existing: tuple[Path, Path]) -> None:
    source, target = existing
    with pytest.raises(SiHubError) as raised:
        si_hub.convert(source)
    python = str(raised.value)
    result = CliRunner().invoke(main, ["convert", str(source), "--json"])
    assert python.startswith(f"{target}: already exists. ")
    assert "force=True" in python
    assert "output=" in python
    assert "--" not in python
    line = result.stderr.removeprefix("si-hub: ").strip()
    assert "--force" in line
    assert "-o" in line.split()[-1]
    assert "=" not in line
    assert json.loads(result.stdout)["hint"] in line
    assert str(raised.value.as_dict()["hint"]) in python
