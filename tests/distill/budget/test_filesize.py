"""What a file costs before it is written is what it has when it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from si_hub import format as file_format
from si_hub.distill.budget.filesize import ENTRY, SOURCE_HASH, Price, adapter_bytes
from tests.places import GOLDEN

FILES = sorted(GOLDEN.glob("*.safetensors"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_adapter_has_as_many_bytes_as_its_file(file: Path, tmp_path: Path) -> None:
    adapter = file_format.read(file)
    assert adapter_bytes(adapter) == file_format.write(adapter, tmp_path / "copy.safetensors").size


def test_a_hashed_source_adds_no_more_than_is_said(tmp_path: Path) -> None:
    adapter = file_format.read(FILES[0])
    adapter = replace(adapter, about={**adapter.about, "provenance": {"family": "distilled", "source": {"size": 3}}})
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    written = file_format.write(adapter, tmp_path / "copy.safetensors", hash_source=source)
    assert 0 < written.size - adapter_bytes(adapter) <= SOURCE_HASH


def test_a_rank_and_its_entries_cost_what_they_put_into_the_file() -> None:
    half, numbers = Price("F16"), Price(None)
    assert half.rank(30, 40) == 2 * 70
    assert half.rank(30, 40, branches=3) == 2 * (30 + 3 * 40)
    assert half.entries("unet.conv_in", 2) == 2 * (len("unet.conv_in.weight_delta") + ENTRY)
    assert half.router("unet.conv_in", 1, 3) == 3 * (len("unet.conv_in") + 16 + ENTRY) + 4 * 3
    assert (numbers.rank(30, 40), numbers.entries("unet.conv_in", 2), numbers.router("unet", 2, 9)) == (70, 0, 0)
