"""docs/FORMAT.md and the code say the same, as far as names and numbers go."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from si_hub import errors, schemas
from si_hub.adapter import LEAVES, POOLS, TRANSFORMS
from si_hub.format.document import DEPTH_LIMIT, DOCUMENT_LIMIT
from si_hub.format.layers import NAME_LIMIT
from si_hub.format.patterns import WORK_LIMIT
from si_hub.format.versions import FORMAT_VERSION
from si_hub.storage.header import AXES_LIMIT, HEADER_LIMIT, VALUES_LIMIT
from tests.places import ROOT

TEXT = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
WORDS = set(re.findall(r"`([^`]+)`", TEXT))
STRICT = schemas.load_schema(FORMAT_VERSION, strict=True)


@pytest.mark.parametrize("name", [*LEAVES, *TRANSFORMS, *POOLS])
def test_every_leaf_transform_and_pool_is_defined(name: str) -> None:
    assert name in WORDS


def fields(schema: Any) -> set[str]:
    """Every field name of the schema, at any depth."""
    if isinstance(schema, list):
        return {name for item in schema for name in fields(item)}
    if not isinstance(schema, dict):
        return set()
    own = set(schema["properties"]) if isinstance(schema.get("properties"), dict) else set()
    return own | {name for item in schema.values() for name in fields(item)}


@pytest.mark.parametrize("name", sorted(fields(STRICT)))
def test_every_field_of_the_document_is_there(name: str) -> None:
    assert re.search(rf"\b{name}\b", TEXT)


#: Rules of other things than StyleInject files.
ELSEWHERE = {"FormatError", "UnknownFamily", "AmbiguousFamily", "BadListing", "CardError", "UnknownField"}


def test_every_rule_has_its_error_and_every_error_its_rule() -> None:
    defined = {
        name
        for name, item in inspect.getmembers(errors, inspect.isclass)
        if issubclass(item, errors.FormatError | errors.ChecksumError)
    }
    table = TEXT.split("| rule | error |")[1].split("\n\n")[0]
    named = {word for line in table.splitlines()[2:] for word in re.findall(r"`(\w+)`", line.rsplit("|", 2)[-2])}
    assert named == defined - ELSEWHERE


def test_the_limits_are_the_codes() -> None:
    for limit in (DOCUMENT_LIMIT, HEADER_LIMIT, VALUES_LIMIT, WORK_LIMIT):
        assert f"{limit:,}" in TEXT
    for limit, unit in ((DEPTH_LIMIT, "levels"), (NAME_LIMIT, "characters"), (AXES_LIMIT, "axes")):
        assert re.search(rf"\b{limit} {unit}", TEXT)
    assert f"version {FORMAT_VERSION}" in TEXT


@pytest.mark.parametrize("path", ["examples/read_styleinject.py", "tests/golden/1.0/", "schemas/1.0/"])
def test_what_the_document_points_to_is_there(path: str) -> None:
    assert path in WORDS
    assert (ROOT / path).exists()
