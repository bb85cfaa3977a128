"""What only shows on other systems, held here: text files say their encoding, and nothing needs a symbolic link."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.places import ROOT
from tests.storage.test_system import MODULES_OF_POSIX

FOLDERS = ("si_hub", "tests", "benchmarks", "examples")
#: Calls that open texts → where their mode stands among the arguments; the text of none has one.
_MODES = {"NamedTemporaryFile": 0, "TemporaryFile": 0, "fdopen": 1, "open": 1}
_TEXTS = {"read_text": 0, "write_text": 1}


def find_called(node: ast.Call) -> str:
    """The name of what is called, without what it is of."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def opens_text_by_default_encoding(node: ast.Call) -> bool:
    """Whether a call opens, reads or writes a text and leaves the encoding to the machine."""
    name, words = find_called(node), {keyword.arg: keyword.value for keyword in node.keywords}
    if "encoding" in words:
        return False
    if name in _TEXTS:
        return len(node.args) <= _TEXTS[name]
    if name not in _MODES:
        return False
    is_path = isinstance(node.func, ast.Attribute) and name == "open" and getattr(node.func.value, "id", "") != "os"
    place = 0 if is_path else _MODES[name]
    mode = words.get("mode", node.args[place] if len(node.args) > place else None)
    if mode is None:
        # A temporary file is binary; a path's open without arguments is a text, and other things have an `open` too.
        return name == "fdopen" or (name == "open" and (not is_path or not (node.args or words)))
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and len(mode.value) > 0 and (
        set(mode.value) <= set("rwxat+")
    )  # fmt: skip


def calls(file: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


@pytest.mark.parametrize(
    ("code", "wrong"),
    [("path.read_text()", True), ("path.read_text('utf-8')", False), ("path.write_text(x)", True), ("open(p)", True),
     ("open(p, 'rb')", False), ("open(p, 'w')", True), ("open(p, 'w', encoding='utf-8')", False), ("p.open()", True),
     ("p.open('rb')", False), ("p.open('a')", True), ("os.fdopen(d, 'w')", True), ("os.fdopen(d, 'rb')", False),
     ("work.open(plan)", False), ("NamedTemporaryFile('w+')", True), ("NamedTemporaryFile()", False)],
)  # fmt: skip
def test_the_finder_finds_what_has_no_encoding(code: str, wrong: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert opens_text_by_default_encoding(call) is wrong


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_text_file_is_opened_with_an_encoding(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [
        f"{file.relative_to(ROOT).as_posix()}:{node.lineno} {find_called(node)}"
        for file in files for node in calls(file) if opens_text_by_default_encoding(node)
    ]  # fmt: skip
    assert found == []


def test_a_checkout_without_links_works(tmp_path: Path) -> None:
    """Git writes a link as a text file where the system has none; the commands and schemas are found all the same."""
    links = [path for path in ROOT.iterdir() if path.is_symlink()]
    for link in links:
        (tmp_path / link.name).write_text(str(link.readlink()), encoding="utf-8")
    shutil.copytree(ROOT / "si_hub", tmp_path / "si_hub", ignore=shutil.ignore_patterns("__pycache__"))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    code = (
        "import si_hub, si_hub.cli; from si_hub.converters import convert_source; from si_hub.format import document; "
        "from si_hub import architectures; assert architectures.resolve('sd15').name == 'sd15'; print(si_hub.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)


def test_what_is_run_as_elsewhere_is_there_and_of_every_room_that_touches_files() -> None:
    lines = (ROOT / "tests" / "elsewhere" / "tests.txt").read_text(encoding="utf-8").splitlines()
    listed = [Path(name) for line in lines for name in line.partition("#")[0].split()]
    assert [str(path) for path in listed if not (ROOT / path).is_file()] == []
    rooms = {path.parts[1] for path in listed if len(path.parts) > 2}
    assert {"storage", "format", "converters", "report", "hub", "pipelines", "distill"} <= rooms


def test_the_suite_runs_on_three_systems() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    systems = jobs["suite"]["strategy"]["matrix"]["os"]
    assert {one.partition("-")[0] for one in systems} == {"ubuntu", "windows", "macos"}
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    called = [
        word
        for job in jobs.values()
        for step in job["steps"]
        for word in re.findall(r"make ([\w-]+)", step.get("run", ""))
    ]
    assert called
    assert set(called) <= set(targets)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_needs_a_module_of_posix_to_be_imported(folder: str) -> None:
    """Inside a function it is another matter: the test says that it is of POSIX alone."""
    found = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found += [f"{file.relative_to(ROOT).as_posix()}: {name}" for name in names if name in MODULES_OF_POSIX]
    assert found == []
