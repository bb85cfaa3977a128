from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from si_hub import schemas
from si_hub.adapter import POOLS, TRANSFORMS, Transform
from si_hub.format.versions import FORMAT_VERSION
from si_hub.storage.header import read_safetensors
from tests.places import GOLDEN

FILES = sorted(GOLDEN.glob("*.safetensors"))


@pytest.mark.parametrize("version", schemas.VERSIONS)
@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_is_a_schema_of_draft_2020_12(version: str, strict: bool) -> None:
    schema = schemas.load_schema(version, strict=strict)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def derive_open(strict: dict[str, Any]) -> dict[str, Any]:
    """The open schema that belongs to a strict one: unknown fields may be there, and so may a later minor version."""
    major = strict["properties"]["format_version"]["const"].split(".")[0]
    schema: dict[str, Any] = without_closing(strict)
    schema["$id"] = strict["$id"].replace(":strict", ":open")
    schema["properties"]["format_version"] = {"type": "string", "pattern": rf"^{major}\.(0|[1-9][0-9]*)(?!\n)$"}
    return schema


def without_closing(value: Any) -> Any:
    if isinstance(value, list):
        return [without_closing(item) for item in value]
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if (key, item) != ("additionalProperties", False)}
        return {key: without_closing(item) for key, item in kept.items()}
    return value


@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_the_open_schema_follows_from_the_strict_one(version: str) -> None:
    strict = schemas.load_schema(version, strict=True)
    assert schemas.load_schema(version, strict=False) == derive_open(strict)
    assert "additionalProperties" in json.dumps(strict["properties"]["base_model"])
    assert schemas.load_schema(version, strict=False)["$id"] != strict["$id"]


def test_every_version_this_library_writes_has_its_schemas() -> None:
    assert FORMAT_VERSION in schemas.VERSIONS
    with pytest.raises(KeyError):
        schemas.load_schema("9.9")


def test_the_schema_and_the_code_know_the_same_settings() -> None:
    definitions = schemas.load_schema("1.0", strict=True)["$defs"]
    assert tuple(definitions["transform"]["enum"]) == TRANSFORMS == get_args(Transform)
    assert tuple(definitions["pool"]["enum"]) == POOLS


def objects(schema: Any, where: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every part of a schema that lists properties, with its place."""
    if isinstance(schema, list):
        return [found for index, item in enumerate(schema) for found in objects(item, f"{where}/{index}")]
    if not isinstance(schema, dict):
        return []
    here = [(where, schema)] if "properties" in schema and "type" in schema else []
    return here + [found for key, item in schema.items() for found in objects(item, f"{where}/{key}")]


def test_the_strict_schema_closes_every_object_and_the_open_one_none() -> None:
    closed = objects(schemas.load_schema("1.0", strict=True))
    assert len(closed) == 9
    assert all(schema["additionalProperties"] is False for _, schema in closed)
    assert all("additionalProperties" not in schema for _, schema in objects(schemas.load_schema("1.0", strict=False)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("strict", [True, False])
def test_golden_documents_are_valid(path: Path, strict: bool) -> None:
    document = json.loads(read_safetensors(path).metadata["styleinject"])
    jsonschema.Draft202012Validator(schemas.load_schema("1.0", strict=strict)).validate(document)
