"""Files changed in every part, to every reader: what is read keeps the rules, and what is refused breaks one."""

from __future__ import annotations

import pytest

from si_hub.format import reader
from si_hub.storage import header
from tests.fuzz.running import fuzz

#: A few seconds of what `make fuzz` does for a million inputs; another seed than its.
INPUTS = 1200


def test_no_change_of_a_file_brings_anything_else() -> None:
    outcome = fuzz(range(INPUTS), seed=7)
    assert outcome.findings == []
    assert outcome.inputs == INPUTS
    assert outcome.accepted > INPUTS // 10
    assert outcome.slowest[0] < 2


def test_a_reader_that_forgets_a_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "check_adapter", lambda *_: None)
    assert any("the adapter is read; by the rules" in finding for finding in fuzz(range(300), seed=7).findings)


def test_a_header_that_forgets_a_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "_check_tiling", lambda *_: None)
    findings = fuzz(range(300), seed=7).findings
    assert any("the container is read; by the rules" in finding for finding in findings)
