"""What the names of a base model look like: cheap, and never other than its names."""

from __future__ import annotations

from collections import Counter

import pytest

from si_hub.architectures.bases import BASES
from si_hub.architectures.bases.contract import Base
from si_hub.architectures.namings import LAYOUTS
from si_hub.architectures.shipped import load_model, names
from si_hub.architectures.sketch import likely_bases, sketch_name, sketch_table

TABLES = sorted({part.table for base in BASES for part in base.components.values()})


def test_numbers_and_dots_are_left_out_of_a_sketch() -> None:
    assert sketch_name("down_blocks.0.resnets.12.conv1") == "down_blocks_#_resnets_#_conv1"
    assert sketch_name("lora_unet_down_blocks_0_attn1") == "lora_unet_down_blocks_#_attn1"


@pytest.mark.parametrize("table", TABLES)
def test_the_sketch_of_a_table_is_that_of_all_its_names(table: str) -> None:
    model = load_model(table)
    every = {sketch_name(name) for layout in LAYOUTS.values() for name in layout(model)}
    assert sketch_table(table) == every, "python -m si_hub.architectures.generate writes them anew"


@pytest.mark.parametrize("base", BASES, ids=names())
def test_a_base_knows_all_of_its_own_names_and_no_base_knows_more(base: Base) -> None:
    own = Counter(sketch_name(name) for part in base.components.values() for name in load_model(part.table).modules)
    known = likely_bases(own)
    assert (base, own.total()) in known
    assert max(count for _, count in known) == known[0][1] == own.total()


def test_names_of_no_base_are_likely_for_none() -> None:
    assert likely_bases({"no_such_module": 1}) == []
