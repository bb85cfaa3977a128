"""`si-hub split`: parts that together are the whole, and a style's own file again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import si_hub
from si_hub import format
from si_hub.cli import main
from si_hub.editing.splitting import name_block
from si_hub.errors import ConversionRefused, FileAccessError, UsageError
from si_hub.format.writer import tensors_by_name
from tests.miniature import BASE, KOHYA_LORA, MINIATURE

PEERS = MINIATURE / "peers"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return si_hub.convert(KOHYA_LORA, tmp_path / "ink.styleinject.safetensors", base=BASE).path


def test_components_merged_again_are_the_same_bytes(ours: Path, tmp_path: Path) -> None:
    found = si_hub.split(ours, tmp_path / "parts")
    assert {part: path.name for part, path in found.paths.items()} == {
        "unet": "ink.unet.styleinject.safetensors", "text_encoder": "ink.text_encoder.styleinject.safetensors",
    }  # fmt: skip
    whole = si_hub.merge(list(found.paths.values()), tmp_path / "whole.safetensors", base=BASE).path
    before, after = (tensors_by_name(format.read(file)) for file in (ours, whole))
    assert {name: one.tobytes() for name, one in after.items()} == {name: one.tobytes() for name, one in before.items()}


def test_blocks_merged_again_are_the_same_bytes(ours: Path, tmp_path: Path) -> None:
    found = si_hub.split(ours, tmp_path / "parts", by="block")
    assert {"unet.down_blocks.0", "unet.mid_block", "text_encoder.text_model.encoder.layers.0"} <= found.paths.keys()
    assert sum(found.layers.values()) == 66
    whole = si_hub.merge(list(found.paths.values()), tmp_path / "whole.safetensors", base=BASE).path
    before, after = (tensors_by_name(format.read(file)) for file in (ours, whole))
    assert {name: one.tobytes() for name, one in after.items()} == {name: one.tobytes() for name, one in before.items()}


def test_a_branch_is_the_file_that_it_was_made_of_at_its_own_rank(tmp_path: Path) -> None:
    files = [KOHYA_LORA, PEERS / "peft_lora.safetensors", PEERS / "lycoris_locon.safetensors"]
    styles = si_hub.merge(files, tmp_path / "styles.safetensors", branches=True, base=BASE).path
    found = si_hub.split(styles, tmp_path / "parts", by="branch")
    assert list(found.paths) == ["kohya_lora", "peft_lora", "lycoris_locon"]
    for file in files:
        source = si_hub.convert(file, tmp_path / f"c-{file.name}", base=BASE).path
        before, after = (format.read(path).components for path in (source, found.paths[file.stem]))
        assert {name: one.layers.keys() for name, one in before.items()} == {
            name: one.layers.keys() for name, one in after.items()
        }
        for name, component in before.items():
            for path, layer in component.layers.items():
                other = after[name].layers[path]
                assert (other.branches, other.rank) == (1, layer.rank)
                mine, theirs = (
                    one.tensors["up.weight"].torch().double()
                    @ one.tensors["down.weight"].torch().double().flatten(1) * one.scale
                    for one in (other, layer)
                )  # fmt: skip
                np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.1"),
        ("mid_block.attentions.0.proj_in", "mid_block"),
        ("conv_in", "conv_in"),
        ("time_embedding.linear_1", "time_embedding"),
        ("single_transformer_blocks.17.proj_out", "single_transformer_blocks.17"),
        ("text_model.encoder.layers.3.mlp.fc1", "text_model.encoder.layers.3"),
    ],
)  # fmt: skip
def test_a_block_is_a_numbered_one_or_a_module_of_its_own(path: str, block: str) -> None:
    assert name_block(path) == block


def test_what_cannot_be_split_is_told_and_a_dry_run_writes_nothing(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionRefused, match="is of one branch only"):
        si_hub.split(ours, by="branch")
    with pytest.raises(UsageError, match="is no way to split"):
        si_hub.split(ours, by="letter")  # type: ignore[arg-type]
    ended = CliRunner().invoke(main, ["split", str(ours), "-o", str(tmp_path / "parts"), "--dry-run", "--json"])
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["parts"]["unet"]["size"] is None
    assert not (tmp_path / "parts").exists()
    si_hub.split(ours)
    with pytest.raises(FileAccessError, match="already exists"):
        si_hub.split(ours)
    assert si_hub.split(ours, force=True).sizes.keys() == {"unet", "text_encoder"}
