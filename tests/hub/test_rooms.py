"""The rooms inside the Hub's: what both ways share, the card, the way here, the way there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import si_hub.hub

HUB = Path(si_hub.hub.__file__).parent
#: Left to right: a room imports only rooms to its left; the top, ``""``, is what all of them stand on.
ROOMS = ["", "card", "pull", "push"]


def room_of(module: str) -> str:
    _, _, rest = module.partition("si_hub.hub.")
    first = rest.partition(".")[0]
    return first if first in ROOMS else ""


@pytest.mark.parametrize("file", sorted(HUB.rglob("*.py")), ids=lambda file: str(file.relative_to(HUB)))
def test_a_room_of_the_hub_imports_no_room_to_its_right(file: Path) -> None:
    own = "" if file.parent == HUB else file.parent.name
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("si_hub.hub"):
            targets = [node.module or "", *(f"{node.module}.{name.name}" for name in node.names)]
            assert all(ROOMS.index(room_of(target)) <= ROOMS.index(own) for target in targets), ast.unparse(node)
