"""Words and numbers for the terminal."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from si_hub.cli import main
from si_hub.report.text import reasons, size_bytes, size_text
from tests.miniature import BASE, NEON


def test_reasons_are_told_once_with_how_many_names_have_them() -> None:
    names = {"a": "stale", "b": "large", "c": "large", "d": "large", "e\x1b[2J": "large"}
    assert reasons(names) == ["1 (a): stale", "4 (b, c, d, ...): large"]
    assert reasons({"e\x1b[2J": "odd"}) == ["1 (e\\x1b[2J): odd"]
    assert reasons({}) == []


@pytest.mark.parametrize(
    ("text", "size"), [("40MB", 40_000_000), ("1.5 GiB", 3 << 29), ("900000", 900_000), ("7k", 7000)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("size", [812, 23_100, 871_400_000, 6_900_000_000])
def test_a_printed_size_can_be_given_back(size: int) -> None:
    assert size_bytes(size_text(size)) == size


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "0", "4 parsecs", "1e9"])
def test_what_is_no_size_is_a_usage_error(text: str) -> None:
    done = CliRunner().invoke(main, ["distill", str(BASE), str(NEON), "--size", text])
    assert done.exit_code == 2
    assert "is no size such as 40MB" in done.stderr
