"""The document ↔ the fields of an `Adapter`: defaults, exceptions, canonical text, its schema."""

from __future__ import annotations

import json
import math
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from si_hub import schemas
from si_hub.adapter import Adapter, BaseModel, Component, Layer, Pool, Transform
from si_hub.errors import DocumentError, DocumentTooLarge, FormatWarning, NotStyleInject, TooDeep
from si_hub.foreign import make_safe
from si_hub.format.patterns import cover, resolve_patterns
from si_hub.format.versions import FORMAT_VERSION, Document
from si_hub.format.whole import requires
from si_hub.schedule import SCHEDULE
from si_hub.storage.header import parse_json
from si_hub.storage.tensors import Tensor
from si_hub.words import call

#: The metadata key that holds the document.
KEY = "styleinject"
#: Bytes of the document as it stands in the header, escapes included: one read of 100 kB shows it.
DOCUMENT_LIMIT = 64 << 10
DEPTH_LIMIT = 32

#: Fields that mirror the adapter itself; everything else of a document is `Adapter.about`.
_STRUCTURE = ("format_version", "requires", "base_model", "components", "branches", "tensors_sha256")
_BASE_FIELDS = ("architecture", "repo_id", "revision", "prediction_type", "sha256")
_COMPONENT_FIELDS = ("class_name", "alpha", "transform", "pool", "exceptions")

#: Settings whose exceptions stand in the document: name → (text of a layer's value, default or None for the commonest).
_SETTINGS: dict[str, tuple[Callable[[Layer], str], str | None]] = {
    "transform": (lambda layer: layer.transform, None),
    "pool": (lambda layer: layer.pool, None),
    "groups": (lambda layer: str(layer.groups), "1"),
}


def build_document(adapter: Adapter, tensors_sha256: str) -> Document:
    """The document of an adapter, not yet checked against its schema.

    Fields that a later version put into the adapter it was read from are kept, together with that version's name.
    """
    document: Document = {
        "format_version": FORMAT_VERSION,
        "base_model": {
            name: value for name in _BASE_FIELDS if (value := getattr(adapter.base_model, name)) is not None
        },
        "components": {name: _describe(component) for name, component in adapter.components.items()},
        "tensors_sha256": tensors_sha256,
    }
    if adapter.branches:
        document["branches"] = list(adapter.branches)
    required = sorted({*requires(adapter.components.values()), *adapter.about.get("requires", ())})
    if required or "requires" in adapter.about:
        document["requires"] = required
    for name in ("branches", "tensors_sha256"):
        if name in adapter.about:
            raise DocumentError("is derived from the adapter, and cannot stand in about", key=name)
    merged = cast(Document, _merge(document, {k: value for k, value in adapter.about.items() if k != "requires"}))
    if SCHEDULE in merged and SCHEDULE not in merged.get("requires", ()):
        merged["requires"] = sorted({SCHEDULE, *merged.get("requires", ())})
    return merged


def _merge(into: Any, extra: Any) -> Any:
    """``into`` with what ``extra`` has besides; where both are objects, their fields together."""
    if isinstance(into, dict) and isinstance(extra, Mapping):
        return {**into, **{key: _merge(into.get(key), value) for key, value in extra.items()}}
    return extra


def _describe(component: Component) -> dict[str, Any]:
    pairs = {module: layer for module, layer in component.layers.items() if layer.rank}
    exceptions: dict[str, dict[str, list[str]]] = {}
    defaults: dict[str, str] = {}
    for setting, (value_of, fixed) in _SETTINGS.items():
        values = {module: value_of(layer) for module, layer in pairs.items()}
        defaults[setting] = fixed or _commonest(values.values(), getattr(Layer({}), setting))
        found = {}
        for value in sorted(set(values.values()) - {defaults[setting]}):
            wanted = {module for module in pairs if values[module] == value}
            found[value] = cover(wanted, pairs.keys() - wanted)
        if found:
            exceptions[setting] = found
    described: dict[str, Any] = {
        "alpha": default_alpha(component),
        "transform": defaults["transform"],
        "pool": defaults["pool"],
    }
    if component.class_name is not None:
        described["class_name"] = component.class_name
    if exceptions:
        described["exceptions"] = exceptions
    return described


def default_alpha(component: Component) -> float | None:
    """The commonest alpha of a component; null as soon as one layer goes by its rank, since no tensor can say null."""
    alphas = [layer.alpha for layer in component.layers.values() if layer.rank]
    if None in alphas:
        return None
    return cast("float | None", _commonest(alphas, None))


def _commonest(values: Iterable[Any], otherwise: Any) -> Any:
    """The value that occurs most, the smallest of several such; ``otherwise`` where there is none."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else otherwise


def alpha_tensor(value: float) -> Tensor:
    """A scalar of float32 where that holds ``value``, of float64 otherwise, so that alpha never changes."""
    try:
        narrow = struct.pack("<f", value)
    except OverflowError:
        narrow = b""
    if narrow and struct.unpack("<f", narrow)[0] == value:
        return Tensor.from_bytes("F32", (), narrow)
    return Tensor.from_bytes("F64", (), struct.pack("<d", value))


def settle_settings(component: Component, described: Mapping[str, Any], name: str, file: Path | None = None) -> None:
    """Give every layer of ``component`` that has a low-rank pair the transform, pool and groups of the document.

    Raises:
        DocumentError: a pattern that matches no such layer, or two values for one layer.
    """
    pairs = {module: layer for module, layer in component.layers.items() if "up.weight" in layer.tensors}
    for layer in pairs.values():
        layer.transform = cast(Transform, described["transform"])
        layer.pool = cast(Pool, described["pool"])
    for setting, table in described.get("exceptions", {}).items():
        if setting not in _SETTINGS:
            continue
        where = f"components.{name}.exceptions.{setting}"
        given: dict[str, str] = {}
        idle = {pattern for patterns in table.values() for pattern in patterns}
        for module, value, pattern in resolve_patterns(table, pairs, file, where):
            idle.discard(pattern)
            if given.setdefault(module, value) != value:
                raise DocumentError(
                    f"gives {module} two values", file=file, key=where, found=f"{given[module]}, {value}"
                )
        if idle:
            raise DocumentError("a pattern that matches no layer", file=file, key=where, found=min(idle))
        for module, value in given.items():
            setattr(pairs[module], setting, int(value) if setting == "groups" else value)


def about_of(document: Mapping[str, Any], unknown: bool) -> dict[str, Any]:
    """What of a document `Adapter.about` holds.

    With ``unknown`` fields also its version, what it requires, and what its base model and components have besides:
    then writing the adapter again keeps them, under the version they came with.
    """
    kept = {key: value for key, value in document.items() if key not in _STRUCTURE}
    if not unknown:
        return kept
    kept["format_version"] = document["format_version"]
    if "requires" in document:
        kept["requires"] = document["requires"]
    base = {key: value for key, value in document["base_model"].items() if key not in _BASE_FIELDS}
    if base:
        kept["base_model"] = base
    components = {}
    for name, described in document["components"].items():
        rest = {key: value for key, value in described.items() if key not in _COMPONENT_FIELDS}
        others = {key: value for key, value in described.get("exceptions", {}).items() if key not in _SETTINGS}
        if others:
            rest["exceptions"] = others
        if rest:
            components[name] = rest
    if components:
        kept["components"] = components
    return kept


def base_model_of(document: Mapping[str, Any]) -> BaseModel:
    """The document's base model."""
    return BaseModel(**{name: document["base_model"].get(name) for name in _BASE_FIELDS})


def canonical(document: Document, file: Path | None = None) -> str:
    """The document's text by RFC 8785.

    Raises:
        DocumentError: NaN, an integer beyond 2**53, text that is no Unicode, a value that is no JSON.
        DocumentTooLarge: over 64 KiB as it stands in the header.
    """
    import rfc8785

    try:
        text = rfc8785.dumps(document).decode("utf-8")
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise DocumentError(f"cannot be written as canonical JSON: {error}", file=file, key=KEY) from error
    _check_length(text, file)
    return text


def parse_document(text: str, file: Path | None = None) -> Document:
    """A document's text as JSON within its limits; nothing else is checked."""
    _check_length(text, file)
    # RFC 8785 numbers are doubles: 1e20 is written as an integer, and must come back as what it was.
    document = parse_json(text.encode("utf-8"), file=file, what="the document", key=KEY, parse_int=_number)
    if not isinstance(document, dict):
        raise DocumentError("is not a JSON object", file=file, key=KEY, found=type(document).__name__)
    _check_depth(document, file)
    return document


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 16 or abs(float(digits)) < 2**53 else float(digits)


def _check_length(text: str, file: Path | None) -> None:
    size = len(json.dumps(text, ensure_ascii=False).encode("utf-8"))
    if size > DOCUMENT_LIMIT:
        raise DocumentTooLarge(
            "the document is too large", file=file, key=KEY, expected=f"at most {DOCUMENT_LIMIT} bytes", found=size,
            hint="Shorten prompts, training notes or extensions.",
        )  # fmt: skip


def _check_depth(document: Document, file: Path | None) -> None:
    level: list[Any] = [document]
    for _ in range(DEPTH_LIMIT):
        level = [
            item
            for value in level
            if isinstance(value, (dict, list))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
    if any(isinstance(value, (dict, list)) for value in level):
        raise TooDeep(f"the document is nested deeper than {DEPTH_LIMIT} levels", file=file, key=KEY)


def check_schema(document: Document, *, strict: bool, file: Path | None = None) -> None:
    """Check a document against the JSON Schema of this library's version.

    Raises:
        DocumentError: names the field.
    """
    import jsonschema

    error = jsonschema.exceptions.best_match(_validator(strict).iter_errors(document))
    if error is not None:
        where = ".".join(map(str, error.absolute_path))
        raise DocumentError(error.message[:300], file=file, key=f"{KEY}.{where}" if where else KEY)


def find_unknown(document: Document, file: Path | None = None) -> list[str]:
    """Check a document against the open schema; the fields that the strict one does not know, as dotted paths.

    Raises:
        DocumentError: names the field.
    """
    errors = list(_validator(strict=True).iter_errors(document))
    if not errors:  # what fits the strict schema fits the open one
        return []
    check_schema(document, strict=False, file=file)
    found: set[str] = set()
    for error in errors:
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            found.update(".".join(map(str, (*error.absolute_path, key))) for key in error.instance if key not in known)
    return sorted(found)


def warn_unknown(fields: list[str], file: Path) -> None:
    """One warning for all fields that this library keeps without understanding them."""
    shown = [make_safe(field, keep_end=True) for field in fields[:20]]
    more = [f"... and {len(fields) - len(shown)} more"] if len(fields) > len(shown) else []
    said = f"{make_safe(file, 500, keep_end=True)}: kept but not understood: {', '.join(shown + more)}"
    warnings.warn(said, FormatWarning, stacklevel=4)


@cache
def _validator(strict: bool) -> Any:
    import jsonschema

    validators: Any = jsonschema.validators  # its stubs leave this untyped
    linear = validators.extend(jsonschema.Draft202012Validator, {"uniqueItems": _find_repeated})
    schema = schemas.load_schema(FORMAT_VERSION, strict=strict)
    return linear(_put_in_place(schema, schema["$defs"]))


def _put_in_place(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with its definitions where it refers to them: jsonschema takes longest to look them up."""
    if isinstance(node, list):
        return [_put_in_place(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _put_in_place(definitions[node["$ref"].removeprefix("#/$defs/")], definitions)
    return {key: _put_in_place(item, definitions) for key, item in node.items() if key != "$defs"}


def _find_repeated(_: Any, unique: bool, items: Any, __: Any) -> Iterator[Any]:
    """``uniqueItems`` in one go: jsonschema compares each item of a list of several types with each other one."""
    import jsonschema

    if unique and isinstance(items, list):
        texts = [json.dumps(item, sort_keys=True) for item in items]
        if len(set(texts)) < len(texts):
            [(text, _)] = Counter(texts).most_common(1)
            yield jsonschema.ValidationError(f"{text} stands there twice")


def not_styleinject(file: Path) -> NotStyleInject:
    return NotStyleInject(
        "is no StyleInject adapter: the metadata have no document", file=file, key=KEY,
        hint=f"Convert it first: {call('convert', 'FILE')}.",
    )  # fmt: skip


def check_alpha(layer: Layer, name: str, file: Path | None = None) -> None:
    """alpha is finite; alpha, transform, pool and groups mean something only beside a low-rank pair.

    Raises:
        DocumentError: a setting that the file could not hold.
    """
    if layer.alpha is not None and not math.isfinite(layer.alpha):
        raise DocumentError("alpha is not finite", file=file, key=f"{name}.alpha", found=layer.alpha)
    plain = Layer({})
    for setting in ("alpha", "transform", "pool", "groups"):
        if not layer.rank and getattr(layer, setting) != getattr(plain, setting):
            raise DocumentError(
                f"{setting} on a layer without a low-rank pair has no meaning", file=file, key=name,
                expected=getattr(plain, setting), found=getattr(layer, setting),
            )  # fmt: skip
