"""docs/TROUBLESHOOTING.md has every error of the package, under its own exit code."""

from __future__ import annotations

import builtins
import inspect
import re

from si_hub import errors
from tests.places import ROOT

TEXT = (ROOT / "docs" / "TROUBLESHOOTING.md").read_text(encoding="utf-8")
ALL = {
    name: one
    for name, one in vars(errors).items()
    if inspect.isclass(one) and issubclass(one, errors.SiHubError) and one is not errors.SiHubError
}


def test_every_error_has_its_words_where_its_exit_code_is() -> None:
    found: dict[str, set[int]] = {}
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        title = re.match(r"Code (\d+)", part)
        for line in part.splitlines():
            row = re.match(r"\| (\d+) \|", line)
            for name in re.findall(r"`(\w+)`", line):
                if name in ALL and (title or row):
                    code = row[1] if row else title[1] if title else ""
                    found.setdefault(name, set()).add(int(code))
    assert found == {name: {one.exit_code} for name, one in ALL.items()}


def test_a_builtin_that_is_named_beside_an_error_is_one_that_it_is() -> None:
    named = re.findall(r"`(\w+)` \((\w+)\)", TEXT)
    assert len(named) > 6
    for name, builtin in named:
        assert issubclass(ALL[name], getattr(builtins, builtin)), name
