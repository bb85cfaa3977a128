"""The rooms of distill: which may import which, and that no two modules need one another."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import si_hub.distill

PACKAGE = Path(si_hub.distill.__file__).parent
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py")

#: Left to right, the way a distillation goes; a room or a module beside them imports only what is to its left.
ROOMS = [
    "work", "pair", "request", "result", "running", "survey", "budget", "training", "methods", "drawing", "report",
    "command", "previews",
]  # fmt: skip


def module_of(file: Path) -> str:
    """The module's name within the package."""
    return file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")


def imports_of(file: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it, for types too."""
    known = {module_of(one) for one in FILES}
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("si_hub.distill"):
            room = (node.module or "").removeprefix("si_hub.distill").lstrip(".")
            found |= {room, *(f"{room}.{alias.name}".lstrip(".") for alias in node.names)} & known
    return found


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_room_of_distill_imports_no_room_to_its_right(file: Path) -> None:
    own = module_of(file).partition(".")[0]
    for target in imports_of(file):
        room = target.partition(".")[0]
        assert ROOMS.index(room) <= ROOMS.index(own), f"{module_of(file)} imports {target}"


def test_no_two_modules_need_one_another() -> None:
    order = list(TopologicalSorter({module_of(file): imports_of(file) for file in FILES}).static_order())
    assert len(order) == len(FILES) > 40
