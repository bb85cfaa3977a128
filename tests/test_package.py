"""The package as a whole: what importing it costs, and which room may import which."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import si_hub

PACKAGE = Path(si_hub.__file__).parent

#: Left to right, the way data flows; a room, or a module beside rooms, imports only what is to its left.
ORDER = {
    "si_hub": [
        "lazy", "tokens", "foreign", "words", "errors", "expressions", "storage", "adapter", "schedule", "schemas",
        "architectures", "converters", "format", "report", "hub", "tuner", "pipelines", "work", "training", "distill",
        "basemodel", "compression", "editing", "exporting", "conversion", "inspection", "batch", "caches",
        "app", "cli", "__main__",
    ],
    "si_hub.architectures": [
        "model", "layouts", "bases", "namings", "shipped", "folder", "checkpoint", "sketch", "titles", "recognise",
        "known", "reach", "generate",
    ],
    "si_hub.converters": [
        "source", "numbers", "metadata", "pictures", "naming", "dense", "folding", "families", "checking", "report",
        "layers", "saved", "detect", "origins", "wayback", "outline", "reading", "pairing",
    ],
    "si_hub.hub": ["limits", "client", "names", "listing", "card", "pull", "push"],
    "si_hub.tuner": [
        "config", "operator", "kinds", "regions", "requests", "layer", "leaves", "offloaded", "parameters",
        "projections", "ledger", "fusion", "door", "steering", "injection", "model",
    ],
    "si_hub.work": ["seeds", "processes", "fingerprints", "folder"],
    "si_hub.training": [
        "gallery", "noising", "quiet", "buckets", "optimizers", "encoding", "calls", "base", "accelerating", "loop",
        "settings", "surveying", "dealing", "adapting", "encoded", "task", "drawings", "contact", "result", "order",
        "session", "command",
    ],
    "si_hub.distill": [
        "pair", "request", "result", "running", "survey", "budget", "training", "methods", "drawing", "report",
        "command", "previews",
    ],
    "si_hub.editing": [
        "opening", "steadying", "adding", "comparing", "weighting", "interference", "unfusing", "fusing", "compiling",
        "command", "splitting", "describing", "mixing",
    ],
    "si_hub.exporting": [
        "magnitude", "turning", "formats", "joining", "placing", "spelling", "pairs", "original", "headers", "files",
        "assembling", "returning", "proving", "command", "many",
    ],
    "si_hub.app": ["studio", "controls", "page", "command"],
    "si_hub.cli": [
        "printing", "options", "group", "convert", "look", "distill", "edit", "export", "revise", "share", "train",
        "app", "cache", "__main__",
    ],
}  # fmt: skip
#: Lines of a module that needs no file of tests of its own, at most: glue, whose tests are those of what it holds.
SMALL = 40
#: Modules without a file of tests of their own → where they are tested.
UNMIRRORED = {
    "architectures/bases": "tables: test_bases.py, test_named.py and test_whole.py go through all of them",
    "architectures/layouts": "names: test_layouts.py and test_native*.py hold them against diffusers' conversions",
    "converters/families": "test_registry.py, test_reading.py and the peers' key lists go through all of them",
    "cli": "parsing and printing: test_cli.py and the tests of what the commands do run them",
    "report/distillation.py": "plain data, which the tests of page, sheet and charts make and draw",
}
TESTS = Path(__file__).resolve().parent
ROOMS = [(package, room) for package, rooms in ORDER.items() for room in rooms]

#: Names that many modules have because something asks each of them for it, and how the modules' paths begin.
PER_MODULE = {
    "BASE": "architectures/bases/",
    "FAMILY": "converters/families/",
    "check": "converters/families/",
    "differ": "converters/families/",
    "needs_base": "converters/families/",
    "lower": "converters/families/",
    "run": "distill/methods/",
}


def name_module(file: Path) -> str:
    """``si_hub.storage.files``; a package's name for its ``__init__``."""
    name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {name_module(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def find_imports(module: str) -> set[str]:
    """Modules of ours that a module imports, wherever in it, for types too; not what it asks the front door for."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & MODULES.keys()) - {module, "si_hub"}


IMPORTS = {module: find_imports(module) for module in MODULES if module != "si_hub"}


def room_of(module: str, package: str) -> str | None:
    """The room of a package that a module is in; ``None`` for the package's own ``__init__`` and all outside."""
    return module.removeprefix(f"{package}.").partition(".")[0] if module.startswith(f"{package}.") else None


@pytest.mark.parametrize(("package", "room"), ROOMS)
def test_a_room_imports_no_room_to_its_right(package: str, room: str) -> None:
    allowed = {None, *ORDER[package][: ORDER[package].index(room) + 1]}
    own = {module: imports for module, imports in IMPORTS.items() if room_of(module, package) == room}
    assert own
    wrong = [
        f"{module} imports {target}"
        for module, imports in own.items() for target in imports if room_of(target, package) not in allowed
    ]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize("package", ORDER)
def test_every_module_has_a_place_in_the_house(package: str) -> None:
    assert {room_of(module, package) for module in MODULES} - {None} == set(ORDER[package])


def test_no_two_modules_need_one_another() -> None:
    order = list(TopologicalSorter(IMPORTS).static_order())
    assert len(order) == len(IMPORTS)


def public_names(file: Path) -> set[str]:
    """The functions, classes, constants and types that a module defines, and does not keep to itself."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_a_public_name_is_defined_once() -> None:
    homes: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for name in public_names(file):
            homes.setdefault(name, []).append(file.relative_to(PACKAGE).as_posix())
    # Base models go by their modules' names: `sana.LARGE`.
    homes = {
        name: [file for file in files if "architectures/bases/" not in file or name == "BASE"]
        for name, files in homes.items()
    }
    doubles = {name: files for name, files in homes.items() if len(files) > 1}
    allowed = {
        name: files
        for name, files in doubles.items()
        if name in PER_MODULE and all(file.startswith(PER_MODULE[name]) for file in files)
    }
    assert {name: files for name, files in doubles.items() if name not in allowed} == {}
    assert allowed.keys() == PER_MODULE.keys()


def is_exempt(module: Path) -> str | None:
    """The exemption that a module falls under."""
    return next((where for where in UNMIRRORED if module.is_relative_to(where)), None)


def test_what_tests_a_module_lies_where_it_does() -> None:
    """``si_hub/ROOM/NAME.py`` and ``tests/ROOM/test_NAME.py``; what is left out is left out for a reason."""
    files = [file for file in MODULES.values() if len(file.read_text(encoding="utf-8").splitlines()) > SMALL]
    paths = [file.relative_to(PACKAGE) for file in files if file.name != "__init__.py"]
    lone = [path for path in paths if not (TESTS / path.parent / f"test_{path.name}").is_file()]
    assert [str(path) for path in lone if is_exempt(path) is None] == []
    assert set(map(is_exempt, lone)) == set(UNMIRRORED), "an exemption that nothing needs"


@pytest.mark.parametrize("statement", ["import si_hub", "import si_hub.cli", "import si_hub.converters, si_hub.format"])
def test_importing_never_loads_torch(statement: str) -> None:
    check = f"import sys; {statement}; print(*{{'torch', 'diffusers', 'transformers', 'peft'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_importable_and_listed() -> None:
    assert set(si_hub.__all__) <= set(dir(si_hub))
    for name in si_hub.__all__:
        assert getattr(si_hub, name) is not None


def test_distill_is_a_package_that_importing_si_hub_is_enough_for() -> None:
    check = (
        "import sys, si_hub; print(si_hub.distill.__name__, callable(si_hub.distill.distill)); import si_hub.distill"
    )
    check += "; from si_hub import distill; print(distill is si_hub.distill, type(distill).__name__)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout.split() == ["si_hub.distill", "True", "True", "module"], done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lora'"):
        _ = si_hub.lora


@pytest.mark.skipif("SI_HUB_TEST_SITE" not in os.environ, reason="only where the built wheel is tested")
def test_the_wheel_is_what_is_being_tested() -> None:
    assert PACKAGE.is_relative_to(os.environ["SI_HUB_TEST_SITE"])
    assert (PACKAGE / "py.typed").exists()
    assert list((PACKAGE / "schemas").rglob("*.json"))
    assert list((PACKAGE / "architectures").rglob("*.json"))
