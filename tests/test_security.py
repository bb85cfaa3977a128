"""docs/SECURITY.md promises nothing without a test, and every attack that once succeeded stands on it."""

from __future__ import annotations

import ast
import re

import pytest

from tests.places import ROOT

PAGE = (ROOT / "docs" / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\|-|\| promise \|", line)]
#: File of tests and, where one of them alone holds the promise, its name.
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("row", ROWS)
def test_a_promise_names_a_test_that_is_there(row: str) -> None:
    found = NAMED.findall(row)
    assert found, "a promise without a test"
    for file, name in found:
        tests = {node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
                 if isinstance(node, ast.FunctionDef)}  # fmt: skip
        assert name in tests or (not name and any(test.startswith("test_") for test in tests)), (file, name)


def test_every_attack_is_on_the_page() -> None:
    attacks = {f"tests/attacks/{path.name}" for path in (ROOT / "tests" / "attacks").glob("test_*.py")}
    assert attacks - {file for file, _ in NAMED.findall(PAGE)} == set()
