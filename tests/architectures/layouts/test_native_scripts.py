"""Native names of bases that diffusers converts by a script of its repository only, against what the script does.

``scripts.json`` holds what ``scripts/convert_*_to_diffusers.py`` made of checkpoints with a number of its own in every
row, for one block of each kind under number 0; all others were like it. Rows are counted in widths of the model;
``left`` are modules that have no native name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from si_hub import architectures
from si_hub.architectures.layouts import Part
from si_hub.architectures.namings import LAYOUTS

SCRIPTS: dict[str, Any] = json.loads(Path(__file__).with_name("scripts.json").read_text(encoding="utf-8"))
BLOCK = re.compile(r"blocks\.[0-9]+\.")


def in_words(source: str, part: Part, width: int) -> str:
    """A source module with the rows of it that are a part: ``blocks.0.attn.qkv[1:2]``."""
    if part.rows is None:
        return source
    assert all(row % width == 0 for rows in part.rows for row in rows)
    return f"{source}[{','.join(f'{start // width}:{stop // width}' for start, stop in part.rows)}]"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_module_is_where_the_script_puts_it(name: str) -> None:
    script = SCRIPTS[name]
    model = architectures.load(name).components["transformer"]
    ours = {
        part.path: in_words(source, part, script["width"])
        for source, parts in LAYOUTS[script["layout"]](model).items() for part in parts
    }  # fmt: skip
    assert {BLOCK.sub("blocks.0.", path) for path in set(model.modules) - set(ours)} == set(script["left"])
    assert {BLOCK.sub("blocks.0.", path) for path in ours} == set(script["modules"])
    for path, source in ours.items():
        number = BLOCK.search(path)
        expected = script["modules"][BLOCK.sub("blocks.0.", path)]
        assert source == BLOCK.sub(number[0] if number else "", expected), path
