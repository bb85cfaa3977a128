"""`si-hub unfuse`: what a model says of adapters in its weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import si_hub
from si_hub.cli import main
from si_hub.editing.unfusing import FUSED, read_fusions
from si_hub.errors import ConversionRefused, MissingFile
from tests.miniature import BASE, KOHYA_LORA, MINIATURE

OTHER = MINIATURE / "peers" / "lycoris_locon.safetensors"


def test_both_adapters_are_told_and_the_base_is_known_again(tmp_path: Path) -> None:
    once = si_hub.fuse(KOHYA_LORA, BASE, tmp_path / "once", weight=0.8).path
    twice = si_hub.fuse(OTHER, once, tmp_path / "twice", weight=-0.5).path
    [file] = (BASE / "unet").glob("*.safetensors")
    name = f"unet/{file.name}"
    found = si_hub.find_fused(twice, BASE)
    assert [(one["adapter"], one["weight"]) for one in found.files[name]] == [
        (KOHYA_LORA.name, 0.8),
        (OTHER.name, -0.5),
    ]
    assert [one["sha256"] for one in found.files[name]] == [
        hashlib.sha256(one.read_bytes()).hexdigest() for one in (KOHYA_LORA, OTHER)
    ]
    assert found.is_base[name] is True
    assert si_hub.find_fused(twice, once).is_base[name] is False
    ended = CliRunner().invoke(main, ["unfuse", str(once), "--json"])
    assert json.loads(ended.stdout)["files"].keys() == found.files.keys()
    assert (
        f"fuse {KOHYA_LORA.name} {once} -o BACK --weight -0.8" in CliRunner().invoke(main, ["unfuse", str(once)]).stdout
    )


def test_what_says_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConversionRefused, match="says of no adapter that was fused into it"):
        si_hub.find_fused(BASE)
    once = si_hub.fuse(KOHYA_LORA, BASE, tmp_path / "once").path
    lacking = Path(shutil.copytree(BASE, tmp_path / "lacking"))
    shutil.rmtree(lacking / "unet")
    with pytest.raises(MissingFile, match="the base has no such file"):
        si_hub.find_fused(once, lacking)


@pytest.mark.parametrize("text", ["{", "5", "[5]", '[{"adapter": 5}]', "[" * 100_000])
def test_a_strangers_text_says_nothing(text: str) -> None:
    assert read_fusions({FUSED: text}) == []
