from __future__ import annotations

from typing import Any

import pytest

from si_hub import errors
from si_hub.format.versions import FORMAT_VERSION, check_version, migrate, parse_version


def test_this_library_writes_1_0() -> None:
    assert FORMAT_VERSION == "1.0"


@pytest.mark.parametrize(("text", "version"), [("1.0", (1, 0)), ("1.17", (1, 17)), ("20.3", (20, 3))])
def test_versions_are_major_and_minor(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    "value", ["1", "1.0.0", "01.0", "1.00", "1.x", "", "1.0\n", 1.0, None, ["1.0"], "1." + "9" * 9]
)
def test_what_is_no_version_is_a_document_error(value: object) -> None:
    with pytest.raises(errors.DocumentError, match=r"MAJOR\.MINOR"):
        check_version({"format_version": value})
    with pytest.raises(errors.DocumentError, match=r"MAJOR\.MINOR"):
        check_version({})


@pytest.mark.parametrize(("version", "way_out"), [("2.0", "Upgrade"), ("11.5", "Upgrade"), ("0.9", "older si-hub")])
def test_another_major_version_is_refused_with_the_way_out(version: str, way_out: str) -> None:
    with pytest.raises(errors.UnsupportedVersion, match=way_out) as caught:
        check_version({"format_version": version})
    assert version in str(caught.value)


def test_a_higher_minor_version_is_read_unless_it_requires_something_unknown() -> None:
    assert check_version({"format_version": "1.9"}) == (1, 9)
    assert check_version({"format_version": "1.9", "requires": []}) == (1, 9)
    with pytest.raises(errors.UnsupportedVersion, match="leaf:hologram, transform:melt"):
        check_version({"format_version": "1.9", "requires": ["transform:melt", "leaf:hologram"]})


@pytest.mark.parametrize("requires", ["x", {"x": 1}, [1], None])
def test_requires_is_a_list_of_names(requires: object) -> None:
    with pytest.raises(errors.DocumentError, match="list of names"):
        check_version({"format_version": "1.0", "requires": requires})


def test_migrations_follow_one_another_and_leave_the_old_document_alone() -> None:
    def to_1_1(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "format_version": "1.1", "one": True}

    def to_1_2(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "format_version": "1.2", "two": document["one"]}

    old = {"format_version": "1.0"}
    assert migrate(old, {"1.0": to_1_1, "1.1": to_1_2}) == {"format_version": "1.2", "one": True, "two": True}
    assert old == {"format_version": "1.0"}
    assert migrate({"format_version": "1.5"}, {"1.0": to_1_1}) == {"format_version": "1.5"}
    with pytest.raises(ValueError, match="leads nowhere"):
        migrate(old, {"1.0": dict})
