"""The package as a whole: what importing it costs, and which room may import which."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import si_hub

PACKAGE = Path(si_hub.__file__).parent

#: Left to right, the way data flows; a room imports only rooms to its left.
ROOMS = [
    "lazy", "words", "errors", "storage", "adapter", "schemas", "architectures", "converters", "format", "report",
    "hub", "tuner", "pipelines", "distill", "conversion", "inspection", "cli", "__main__",
]  # fmt: skip


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "si_hub" and len(parts) > 1 else None


def imports_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "si_hub" else set()
            found |= names or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_no_room_to_its_right(file: Path) -> None:
    if file == PACKAGE / "__init__.py":
        return
    own = room_of("si_hub." + file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."))
    assert own in ROOMS, f"{own} has no place in the house"
    for target in filter(None, map(room_of, imports_of(file))):
        if target != "__version__":
            assert ROOMS.index(target) <= ROOMS.index(own), f"{file.name} imports {target}"


@pytest.mark.parametrize("statement", ["import si_hub", "import si_hub.cli", "import si_hub.converters, si_hub.format"])
def test_importing_never_loads_torch(statement: str) -> None:
    check = f"import sys; {statement}; print(*{{'torch', 'diffusers', 'transformers', 'peft'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_importable_and_listed() -> None:
    assert set(si_hub.__all__) <= set(dir(si_hub))
    for name in si_hub.__all__:
        assert getattr(si_hub, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lora'"):
        _ = si_hub.lora


@pytest.mark.skipif("SI_HUB_TEST_SITE" not in os.environ, reason="only where the built wheel is tested")
def test_the_wheel_is_what_is_being_tested() -> None:
    assert PACKAGE.is_relative_to(os.environ["SI_HUB_TEST_SITE"])
    assert (PACKAGE / "py.typed").exists()
    assert list((PACKAGE / "schemas").rglob("*.json"))
    assert list((PACKAGE / "architectures").rglob("*.json"))
