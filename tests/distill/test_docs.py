"""docs/DISTILL.md and the code say the same, as far as names and numbers go."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from click.testing import CliRunner

from si_hub.cli import main
from si_hub.distill import METHODS
from si_hub.distill.request import SEVERAL, CallOptions, SurveyOptions, TrainingOptions, names_of
from tests.places import ROOT

TEXT = (ROOT / "docs" / "DISTILL.md").read_text(encoding="utf-8")


def rows(head: str) -> dict[str, str]:
    """Setting → default, of the table under a heading; cells may hold several, in the same order in both columns."""
    table = TEXT.partition(head)[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for line in table.splitlines()[2:]:
        names, _, defaults = (cell.strip() for cell in line.strip("|").split("|"))
        several = re.findall(r"`(\w+)`", names)
        values = defaults.split(", ") if len(several) > 1 else [defaults]
        found |= dict(zip(several, values, strict=True))
    return found


def test_every_method_is_explained() -> None:
    assert set(
        re.findall(r"^\| `(\w+)`(?: \(default\))? \|", TEXT.partition("## What comes out")[0], re.MULTILINE)
    ) == set(METHODS)


@pytest.mark.parametrize(
    ("head", "settings", "more"),
    [
        ("| `calibrated` | | default |", SurveyOptions, {"cache", *names_of(CallOptions)}),
        ("| `trained`, besides | | default |", TrainingOptions, set(SEVERAL)),
    ],
)
def test_every_setting_is_in_its_table_with_its_default(head: str, settings: type, more: set[str]) -> None:
    told = rows(head)
    known = {field.name: field.default for field in fields(settings) if field.name != "seed"}
    assert set(told) == {*known, *more}
    for name, default in known.items():
        if isinstance(default, int | float) and default and not isinstance(default, bool):
            assert told[name] == str(default), name


def test_every_option_that_the_page_names_is_one_of_the_command() -> None:
    shown = CliRunner().invoke(main, ["distill", "--help"]).output
    own = "\n".join(line for line in TEXT.splitlines() if "python -m" not in line and "accelerate" not in line)
    options = set(re.findall(r"--[a-z][a-z-]+", own))
    assert len(options) > 10
    assert {option for option in options if option not in shown} == set()
