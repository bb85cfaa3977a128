"""docs/FORMAT.md once more, as a judge of whole files: written from its text, sharing no code with si_hub.

`judge` says what is broken, in words: of what safetensors asks for with the limits that FORMAT.md adds, and of the rest
of the page.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy

from examples.read_styleinject import matches

SIZES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
LEAVES = (
    "down.weight", "up.weight", "router.weight", "router.bias", "alpha", "gain", "gain_in", "weight_delta",
    "bias_delta", "kron", "param_delta", "turn", "turn_in", "core.weight", "down.scale",
)  # fmt: skip
HEADER, VALUES, TENSORS, DOCUMENT, DEPTH, ROWS, MATCHES = 32 << 20, 1_000_000, 32_768, 65_536, 32, 512, 1_000_000
SEGMENT, COMPONENT = r"[A-Za-z0-9_-]+", r"[A-Za-z_][A-Za-z0-9_]{0,63}"

Shapes = dict[str, tuple[int, ...]]


class Broken(Exception):
    """A rule that a file breaks."""


def demand(holds: object, rule: str) -> None:
    if not holds:
        raise Broken(rule)


def judge(raw: bytes) -> tuple[str | None, str | None]:
    """What of the container a file breaks; and what it breaks as an adapter, its data and its hash included."""
    try:
        header, data = read_container(raw)
    except Broken as error:
        return str(error), str(error)
    try:
        _check_adapter(header, data)
    except Broken as error:
        return None, str(error)
    return None, None


def read_container(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The header's table and the data section."""
    demand(len(raw) >= 10, "10 bytes or more")
    length = int.from_bytes(raw[:8], "little")
    demand(length <= HEADER and 8 + length <= len(raw) and raw[8:9] == b"{", "a header")
    header, data = read_json(raw[8 : 8 + length], minus_zero=False), raw[8 + length :]
    demand(isinstance(header, dict), "the header is an object")
    metadata = header.get("__metadata__", {})
    demand(isinstance(metadata, dict) and all(isinstance(t, str) for t in metadata.values()), "metadata: text to text")
    spans = []
    for name, entry in header.items():
        if name != "__metadata__":
            _check_entry(entry)
            spans.append(tuple(entry["data_offsets"]))
    at = 0
    for begin, end in sorted(spans):
        demand(begin == at, "no overlap, no hole")
        at = end
    demand(at == len(data), "no remainder")
    return header, data


def read_json(raw: bytes, *, minus_zero: bool = True) -> Any:
    """JSON as the page narrows it."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        demand(len({key for key, _ in pairs}) == len(pairs), "no key twice")
        return dict(pairs)

    def real(text: str) -> float:
        demand(math.isfinite(float(text)), "no 1e999")
        return float(text)

    def whole(text: str) -> int | float:
        demand(minus_zero or (text != "-0" and len(text) < 309), "no -0, no number beyond doubles")
        # In a document numbers are doubles; a header's sizes end at 2**63.
        return int(text) if not minus_zero or abs(float(text)) < 2**53 else real(text)

    def constant(text: str) -> None:
        demand(False, f"no {text}")

    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=table, parse_float=real, parse_int=whole, parse_constant=constant
        )
        repr(value).encode("utf-8") if b"\\u" not in raw else json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Broken(f"JSON in UTF-8: {error}"[:200]) from error
    return value


def _check_entry(entry: Any) -> None:
    demand(isinstance(entry, dict) and entry.keys() >= {"dtype", "shape", "data_offsets"}, "dtype, shape, data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    demand(isinstance(dtype, str) and dtype in SIZES, "a known dtype")
    for sizes in (shape, offsets):
        demand(
            isinstance(sizes, list) and all(type(size) is int and 0 <= size < 2**63 for size in sizes),
            "sizes 0 … 2⁶³−1",
        )
    demand(len(offsets) == 2 and len(shape) <= 64, "two offsets, 64 axes at most")
    demand(math.prod(size for size in shape if size) * SIZES[dtype] < 2**63, "< 2⁶³ bytes")
    demand(math.prod(shape) * SIZES[dtype] == offsets[1] - offsets[0], "dtype × shape = bytes")


def _check_adapter(header: dict[str, Any], data: bytes) -> None:
    metadata = header.get("__metadata__", {})
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    demand(len(entries) <= TENSORS, "≤ 32,768 tensors")
    demand("styleinject" in metadata, "a document")
    text = metadata["styleinject"]
    demand(len(json.dumps(text, ensure_ascii=False).encode()) <= DOCUMENT, "a document of 64 KiB at most")
    document = read_json(text.encode())
    demand(isinstance(document, dict), "the document is an object")
    demand(_depth(document) <= DEPTH, "32 levels at most")
    _check_document(document)
    layers, embeddings = _sort_names(entries)
    demand(document["components"].keys() == layers.keys() | embeddings.keys(), "each component is described")
    for component, rows in embeddings.items():
        demand(all(len(shape) == 2 and 0 not in shape for shape in rows), "an embedding is [k, dim]")
        demand(sum(shape[0] for shape in rows) <= ROWS, "≤ 512 rows")
        demand(component.startswith("text_encoder"), "text encoders have embeddings")
    for name, described in document["components"].items():
        _check_component(layers.get(name, {}), described, document.get("branches", ()))
    scaled = {name.removesuffix(".down.scale") for name in entries if name.endswith(".down.scale")}
    scaled = {module for module in scaled if ".embedding." not in module}
    demand(not scaled or "int8" in document.get("requires", ()), "int8 is required")
    for module in scaled:
        _check_scale(module, entries)
    for name, entry in entries.items():
        whole = name.removesuffix(".down.weight").removesuffix(".up.weight") in scaled and name not in scaled
        demand(entry["dtype"] == "I8" if whole else entry["dtype"] in FLOATS, "every dtype is a float, or I8")
        demand(not has_bad_numbers(entry["dtype"], data[slice(*entry["data_offsets"])]), "NaN and infinity are errors")
    for name, entry in entries.items():
        if name.endswith(".alpha") and ".embedding." not in name:
            demand(entry["dtype"] in ("F32", "F64") and entry["shape"] == [], "alpha is [], F32 or F64")
    demand(hashlib.sha256(data).hexdigest() == document["tensors_sha256"], "tensors_sha256")


def _check_scale(module: str, entries: dict[str, Any]) -> None:
    """A scale is F32, one number for each row of down, and its pair is there."""
    down, up, scale = (entries.get(f"{module}.{leaf}") for leaf in ("down.weight", "up.weight", "down.scale"))
    demand(down and up, "down and up come together")
    assert down
    assert scale
    demand(scale["dtype"] == "F32" and down["shape"] and scale["shape"] == down["shape"][:1], "down.scale is [n·rank]")


def _depth(document: Any) -> int:
    deepest, level = 0, [document]
    while level:
        deepest += 1
        inner = [value for value in level if isinstance(value, (dict, list))]
        level = [item for value in inner for item in (value.values() if isinstance(value, dict) else value)]
        level = [item for item in level if isinstance(item, (dict, list))]
    return deepest


def _sort_names(entries: dict[str, Any]) -> tuple[dict[str, dict[str, Shapes]], dict[str, list[tuple[int, ...]]]]:
    """Shapes by component, module path and leaf; and those of embeddings by component."""
    layers: dict[str, dict[str, Shapes]] = {}
    embeddings: dict[str, list[tuple[int, ...]]] = {}
    for name, entry in entries.items():
        component, _, rest = name.partition(".")
        demand(len(name) <= 512 and re.fullmatch(COMPONENT, component), "{component}.{module path}.{leaf}")
        if component.startswith("text_encoder") and rest.startswith("embedding."):
            token = rest.removeprefix("embedding.")
            demand(token and token.isprintable(), "a printable token")
            embeddings.setdefault(component, []).append(tuple(entry["shape"]))
            continue
        demand(re.fullmatch(rf"{SEGMENT}(\.{SEGMENT})*", rest), "segments of letters, digits, _ and -")
        leaf = next((leaf for leaf in LEAVES if rest == leaf or rest.endswith(f".{leaf}")), None)
        demand(leaf is not None and rest != leaf, "a module path and a leaf")
        assert leaf is not None
        module = rest.removesuffix(f".{leaf}")
        layers.setdefault(component, {}).setdefault(module, {})[leaf] = tuple(entry["shape"])
    return layers, embeddings


# The document.

_TRANSFORMS = {"add", "variance", "restyle", "adain"}
_TEXTS = ("family", "naming", "alpha_layout", "tool")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any, least: int) -> bool:
    return _is_number(value) and value == int(value) and value >= least


def _are_texts(value: Any, *, unique: bool = False) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and not (unique and len(set(value)) < len(value))


def _check_texts(table: Any, names: tuple[str, ...]) -> None:
    demand(isinstance(table, dict), "an object")
    demand(all(_is_text(table[name]) for name in names if name in table), "text")


def _check_document(document: dict[str, Any]) -> None:
    version = document.get("format_version")
    demand(isinstance(version, str), "format_version")
    assert isinstance(version, str)
    demand(re.fullmatch(r"1\.(0|[1-9][0-9]{0,5})", version), "format_version 1.x")
    required = document.get("requires", [])
    demand(isinstance(required, list) and all(isinstance(name, str) for name in required), "requires is names")
    demand(len(set(required)) == len(required), "nothing is required twice")
    demand(set(required) <= {"int8", "schedule"}, "nothing that is not known is required")
    base = document.get("base_model")
    _check_texts(base, ("architecture", "repo_id", "revision", "prediction_type"))
    assert isinstance(base, dict)
    demand("architecture" in base and _is_sha256(base.get("sha256", "0" * 64)), "base_model")
    demand(_is_sha256(document.get("tensors_sha256")), "tensors_sha256 is one")
    demand("branches" not in document or document["branches"] != [], "branches")
    demand(_are_texts(document.get("branches", []), unique=True), "branches are names")
    for name in ("trigger_words", "preview_prompts", "tags"):
        demand(_are_texts(document.get(name, [])), f"{name} are texts")
    _check_texts(document, ("title", "author", "license"))
    for name in ("fidelity", "training", "extensions"):
        demand(isinstance(document.get(name, {}), dict), f"{name} is an object")
    names = document.get("extensions", {})
    demand(all(re.fullmatch(rf"{SEGMENT}([.:/]{SEGMENT})+", name) for name in names), "namespaced names")
    _check_provenance(document.get("provenance", {}))
    if "schedule" in document:
        demand("schedule" in required, "schedule is required")
        _check_schedule(document["schedule"], document.get("branches", []))
    components = document.get("components")
    demand(isinstance(components, dict) and components, "components")
    assert isinstance(components, dict)
    for name, described in components.items():
        demand(re.fullmatch(COMPONENT, name), "a component's name")
        _check_description(described)


def _check_schedule(schedule: Any, branches: Any) -> None:
    demand(isinstance(schedule, dict) and schedule, "schedule")
    named = schedule.get("branches", {"": None})
    demand(isinstance(named, dict) and named, "a schedule's branches")
    demand("branches" not in schedule or set(named) <= set(branches), "branches of a schedule are the adapter's")
    curves = [schedule[name] for name in schedule if name == "weight"]
    for curve in [*curves, *(schedule["branches"].values() if "branches" in schedule else ())]:
        demand(isinstance(curve, dict) and {"over", "points"} <= set(curve), "a curve")
        demand(curve["over"] in ("progress", "sigma"), "what a curve runs over")
        points = curve["points"]
        demand(isinstance(points, list) and 1 <= len(points) <= 1024, "a curve's points")
        for point in points:
            demand(isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)), "a point")
        places = [place for place, _ in points]
        demand(all(left < right for left, right in pairwise(places)), "places rise")


def _check_provenance(provenance: Any) -> None:
    _check_texts(provenance, _TEXTS)
    sources = provenance.get("sources", [])
    demand(isinstance(sources, list) and isinstance(provenance.get("layout", {}), dict), "sources, layout")
    for source in [*sources, provenance.get("source", {})]:
        _check_texts(source, ("name", "repo_id", "revision"))
        demand(_is_sha256(source.get("sha256", "0" * 64)) and _is_count(source.get("size", 0), 0), "a source")
    demand(provenance.get("exact", True) is True, "exact is true")
    error, left_out = provenance.get("error", 0), provenance.get("left_out", 1)
    demand(_is_number(error) and error >= 0 and _is_count(left_out, 1), "error, left_out")
    if "check" in provenance:
        check = provenance["check"]
        demand(isinstance(check, dict) and check.keys() >= {"modules", "largest_error"}, "check")
        demand(_is_count(check["modules"], 1), "modules")
        demand(_is_number(check["largest_error"]) and check["largest_error"] >= 0, "largest_error")
    demand(not ("exact" in provenance and provenance.keys() & {"error", "left_out"}), "exact alone")


def _check_description(described: Any) -> None:
    _check_texts(described, ("class_name",))
    demand(described.keys() >= {"alpha", "transform", "pool"}, "alpha, transform, pool")
    demand(described["alpha"] is None or _is_number(described["alpha"]), "alpha is a number or null")
    demand(described["transform"] in list(_TRANSFORMS) and described["pool"] == "mean", "transform, pool")
    exceptions = described.get("exceptions", {"transform": None})
    demand(isinstance(exceptions, dict) and exceptions, "exceptions")
    for setting, table in exceptions.items() if "exceptions" in described else ():
        if setting not in ("transform", "pool", "groups"):
            continue
        demand(isinstance(table, dict) and table, "values")
        for value, patterns in table.items():
            known = {"transform": value in _TRANSFORMS, "pool": value == "mean"}
            known["groups"] = re.fullmatch("[2-9]|[1-9][0-9]{1,8}", value) is not None
            demand(known[setting], "a value that is known")
            demand(_are_texts(patterns, unique=True) and patterns, "patterns")
            for pattern in patterns:
                demand(re.fullmatch(rf"(\*\*?|{SEGMENT})(\.(\*\*?|{SEGMENT}))*", pattern), "a pattern")
                demand(pattern.count("**") <= 1, "one ** at most")


# Layers.


def _check_component(layers: dict[str, Shapes], described: dict[str, Any], branches: Any) -> None:
    pairs = [module for module, shapes in layers.items() if "up.weight" in shapes]
    given: dict[str, dict[str, str]] = {}
    for setting, table in described.get("exceptions", {}).items():
        if setting in ("transform", "pool", "groups"):
            given[setting] = _settle(table, pairs)
    for module, shapes in layers.items():
        groups = int(given.get("groups", {}).get(module, 1))
        _check_layer(shapes, groups)
        if branches and "up.weight" in shapes:
            n = shapes.get("core.weight", shapes["down.weight"])[0] // (shapes["up.weight"][1] * groups)
            demand(n == len(branches), "every layer has the named branches")


def _settle(table: dict[str, list[str]], modules: list[str]) -> dict[str, str]:
    demand(sum(map(len, table.values())) * len(modules) <= MATCHES, "patterns × layers")
    given: dict[str, str] = {}
    for value, patterns in table.items():
        for pattern in patterns:
            hit = [module for module in modules if matches(pattern.split("."), module.split("."))]
            demand(hit, "a pattern matches")
            for module in hit:
                demand(given.setdefault(module, value) == value, "one value for one layer")
    return given


def _check_layer(shapes: Shapes, groups: int) -> None:
    demand(all(0 not in shape for shape in shapes.values()), "every size is at least 1")
    down, up, delta = shapes.get("down.weight"), shapes.get("up.weight"), shapes.get("weight_delta")
    demand((down is None) == (up is None), "down and up come together")
    demand("alpha" not in shapes or up is not None, "no alpha without a pair")
    if "param_delta" in shapes:
        demand(len(shapes) == 1, "param_delta is alone there")
        return
    n, core = 0, shapes.get("core.weight")
    demand(core is None or (down is not None and "kron" not in shapes), "a core between down and up, without kron")
    if down is not None and up is not None:
        demand(len(up) == 2 and 2 <= len(down) <= 5, "B is a matrix, A has a kernel of three axes at most")
        rank = up[1] * groups
        if core is not None:
            demand(not _kernel(down) and groups == 1, "down is 1×1 before a core, of one group")
            demand(2 <= len(core) <= 5 and core[1] == down[0], "a core of q inputs")
        spatial = down if core is None else core
        demand(spatial[0] % rank == 0 and up[0] % groups == 0, "n, and rows for each group")
        n = spatial[0] // rank
        demand(delta is None or _kernel(delta) == _kernel(spatial), "weight_delta has the kernel of down or core")
    router = [shapes.get("router.weight"), shapes.get("router.bias")]
    if n > 1:
        demand(router[1] == (n,) and (router[0] is None or (len(router[0]) == 2 and router[0][0] == n)), "a router")
    else:
        demand(router == [None, None], "no router")
    for leaf in ("gain", "gain_in", "bias_delta"):
        demand(len(shapes.get(leaf, (1,))) == 1, "a vector")
    for leaf in ("turn", "turn_in"):
        turn = shapes.get(leaf, (1, 1, 1))
        demand(len(turn) == 3 and turn[1] == turn[2], "square blocks")
    demand(delta is None or delta, "a weight is no scalar")
    if (kron := shapes.get("kron")) is not None:
        demand(len(kron) == 2, "[o1, i1]")
        demand((up is None) != (delta is None) and n <= 1 and groups == 1, "kron with one right factor")
    for widths in _tell_widths(shapes, groups):
        demand(len(set(widths)) <= 1, "in and out agree")


def _kernel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return () if all(size == 1 for size in shape[2:]) else shape[2:]


def _tell_widths(shapes: Shapes, groups: int) -> Iterator[list[int]]:
    outs, ins = shapes.get("kron", (1, 1))
    delta, pair = shapes.get("weight_delta", ()), "up.weight" in shapes
    told = [shapes["down.weight"][1] * ins] if pair else []
    told += [shapes["router.weight"][1]] if "router.weight" in shapes else []
    told += list(shapes.get("gain_in", ()))
    told += [math.prod(shapes["turn_in"][:2])] if "turn_in" in shapes else []
    # Without a pair, a weight of more than two axes may be a transposed convolution's, whose axes are the other way.
    if len(delta) == 2 or (pair and len(delta) > 2):
        told.append(delta[1] * groups * ins)
    yield told
    told = [shapes["up.weight"][0] * outs] if pair else []
    told += [*shapes.get("gain", ()), *shapes.get("bias_delta", ())]
    told += [math.prod(shapes["turn"][:2])] if "turn" in shapes else []
    if len(delta) in (1, 2) or (pair and len(delta) > 2):
        told.append(delta[0] * outs)
    yield told


def has_bad_numbers(dtype: str, data: bytes) -> bool:
    """Whether NaN or infinity is among the numbers."""
    if dtype in ("F64", "F32", "F16"):
        with numpy.errstate(all="ignore"):
            return not numpy.isfinite(numpy.frombuffer(data, f"<f{SIZES[dtype]}")).all()
    if dtype == "BF16":
        return not numpy.isfinite((numpy.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")).all()
    bad = {
        "F8_E4M3": {0x7F, 0xFF}, "F8_E5M2": {sign + low for sign in (0, 0x80) for low in (0x7C, 0x7D, 0x7E, 0x7F)},
    }.get(dtype, {0x80})  # fmt: skip
    return not bad.isdisjoint(data)
