"""What the names of a base model look like: cheap, and never other than its names."""

from __future__ import annotations

import json

import pytest

from si_hub.architectures.bases import BASES
from si_hub.architectures.namings import LAYOUTS
from si_hub.architectures.shipped import load_model
from si_hub.architectures.sketch import SKETCHES, Footprint, find_footprints, sketch_name, sketch_table

TABLES = sorted({part.table for base in BASES for part in base.components.values()})


def test_numbers_and_dots_are_left_out_of_a_sketch() -> None:
    assert sketch_name("down_blocks.0.resnets.12.conv1") == "down_blocks_#_resnets_#_conv1"
    assert sketch_name("lora_unet_down_blocks_0_attn1") == "lora_unet_down_blocks_#_attn1"


@pytest.mark.parametrize("table", TABLES)
def test_the_sketch_of_a_table_is_that_of_all_its_names(table: str) -> None:
    model = load_model(table)
    every = {sketch_name(name) for layout in LAYOUTS.values() for name in layout(model)}
    assert sketch_table(table).keys() == every, "python -m si_hub.architectures.generate writes them anew"
    for path, module in model.modules.items():
        assert Footprint(module.kind, module.shape, module.bias) in sketch_table(table)[sketch_name(path)]


def test_every_shipped_sketch_is_of_a_table() -> None:
    assert json.loads(SKETCHES.read_text(encoding="utf-8")).keys() == set(TABLES)


def test_under_the_name_of_fused_modules_lies_the_sum() -> None:
    flux = next(base for base in BASES if base.name == "flux")
    assert set(find_footprints(flux, "double_blocks_#_img_attn_qkv")) == {Footprint("linear", (9216, 3072), True)}
    assert list(find_footprints(flux, "no_such_module")) == []
