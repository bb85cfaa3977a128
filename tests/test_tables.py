"""docs/CONVERT.md says what the code does, because the code wrote it."""

from __future__ import annotations

import pytest

from si_hub.architectures import names
from si_hub.converters import FAMILIES
from tests.tables import PAGE, bases_table, families_table, fill


def test_the_page_is_what_make_tables_writes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert fill(text) == text, "run make tables"


def test_every_family_and_base_has_a_row_of_as_many_cells_as_the_head() -> None:
    for table, count in ((families_table(), len(FAMILIES)), (bases_table(), len(names()))):
        head, _, *rows = table.splitlines()
        assert len(rows) == count
        assert {row.count(" | ") for row in rows} == {head.count(" | ")}


def test_a_page_without_marks_is_an_error() -> None:
    with pytest.raises(ValueError, match="no <!-- families -->"):
        fill("# nothing")
