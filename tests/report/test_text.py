"""Words and numbers for the terminal."""

from __future__ import annotations

from si_hub.report.text import reasons


def test_reasons_are_told_once_with_how_many_names_have_them() -> None:
    names = {"a": "stale", "b": "large", "c": "large", "d": "large", "e\x1b[2J": "large"}
    assert reasons(names) == ["1 (a): stale", "4 (b, c, d, ...): large"]
    assert reasons({"e\x1b[2J": "odd"}) == ["1 (e [2J): odd"]
    assert reasons({}) == []
