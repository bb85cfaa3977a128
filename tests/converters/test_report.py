"""The report of a conversion: every tensor has one fate, and what is lost is told from what is merely left out."""

from __future__ import annotations

from si_hub.converters.report import Report, Use


def test_tensors_are_counted_by_their_fate() -> None:
    report = Report({"a": Use("used"), "b": Use("used"), "alpha": Use("folded"), "x": Use("dropped", "is no module")})
    assert report.count() == {"used": 2, "folded": 1, "dropped": 1}
    assert report.dropped == {"x": "is no module"}
    assert sum(report.count().values()) == len(report.uses)


def test_only_what_changes_the_adapter_is_lost() -> None:
    report = Report()
    report.drop({"a": "rank zero"}, harmless=True)
    report.drop({"b": "no such module"})
    assert report.dropped == {"a": "rank zero", "b": "no such module"}
    assert report.lost == ["b"]


def test_scripts_get_counts_and_the_names_of_what_is_missing_alone() -> None:
    report = Report({f"used {k}": Use("used") for k in range(1000)}, {"ss_tag": "kohya's own"}, ["a note"])
    report.drop({"b": "no such module"})
    assert report.as_dict() == {
        "tensors": {"used": 1000, "folded": 0, "dropped": 1}, "dropped": {"b": "no such module"},
        "metadata_left_out": {"ss_tag": "kohya's own"}, "notes": ["a note"],
    }  # fmt: skip
