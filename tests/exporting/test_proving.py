"""What was written is read back: a file that says something else is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import si_hub
from si_hub import architectures, format
from si_hub.errors import ConversionRefused
from si_hub.exporting.files import ExportFile
from si_hub.exporting.proving import prove
from tests.miniature import BASE, KOHYA_LORA, MINIATURE


def test_every_layer_is_recomputed_from_the_written_file(tmp_path: Path) -> None:
    found = si_hub.export(KOHYA_LORA, f"{tmp_path}/", to="diffusers", base=BASE, check=True)
    assert found.check is not None
    assert found.check.modules == 66
    assert found.check.largest_error < 1e-13
    assert "66 layers recomputed, largest relative error" in found.as_text()
    assert found.as_dict()["check"]["modules"] == 66


@pytest.mark.parametrize("to", ["kohya", "peft"])
def test_folders_and_functions_of_the_base_are_proved_too(to: str, tmp_path: Path) -> None:
    source = MINIATURE / "peers" / "lycoris_dora.safetensors" if to == "kohya" else KOHYA_LORA
    found = si_hub.export(source, f"{tmp_path}/", to=to, base=BASE, check=True)
    assert found.check is not None
    assert found.check.largest_error < 1e-5


def test_a_file_that_says_something_else_is_refused(tmp_path: Path) -> None:
    si_hub.convert(KOHYA_LORA, tmp_path / "ours.safetensors", base=BASE)
    found = si_hub.export(tmp_path / "ours.safetensors", to="kohya", base=BASE)
    state = load_file(found.paths[0])
    with safe_open(found.paths[0], "pt") as opened:
        said = opened.metadata()
    name = next(name for name in state if name.endswith("lora_up.weight"))
    state[name] = state[name] * 1.01
    save_file(state, found.paths[0], said)
    adapter = format.read(tmp_path / "ours.safetensors")
    with pytest.raises(ConversionRefused, match=r"reading the written file back gives something else.*found 0\.01"):
        prove(adapter, architectures.resolve(BASE), None, [ExportFile(found.paths[0])], tmp_path)
