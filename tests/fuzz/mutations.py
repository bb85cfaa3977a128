"""What is done to a file, part by part: each change keeps the rest whole, so that it reaches the rule it is about.

A case is first changed as a structure (tensors, document, configuration), then laid out with offsets and a hash that
fit, and then, sometimes, changed as a header, as a text or as bytes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.cases import Case, Entry, join_bytes, lay_out
from tests.fuzz.rules import LEAVES, SIZES

_DTYPES = [*SIZES, "F8_E4M3", "F32", "F16"]
#: Values that some reader of JSON, of sizes or of settings once stumbled over.
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 0.5, -0.0, 1e308,
    5e-324, "", " ", "a", "1.0", "1.1", "2.0", "1.0\n", "add", "adain", "mean", "**", "*.a", "a.**.b.**", "..", "a/b",
    "/root/x", "~", "C:\\x", "\x1b[2J", "\u202e", "\u2028", "é" * 300, "x" * 5000, "0" * 64, ".*" * 12 + "Z", "(a+)+$",
    "[", "(?=x)", "\\", [], [[]], [1, "1"], ["a", "a"], [None], {}, {"a": {}}, {"": 0}, {".*" * 12 + "Z": 3},
    [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]], {"a": {"b": {"c": [1]}}}, ["x"] * 300,
]  # fmt: skip
#: Field names of documents and configurations.
KEYS = [
    "format_version", "requires", "base_model", "components", "branches", "tensors_sha256", "provenance", "fidelity",
    "extensions", "title", "tags", "trigger_words", "exceptions", "transform", "pool", "groups", "alpha", "class_name",
    "source", "sources", "name", "sha256", "size", "repo_id", "exact", "error", "left_out", "check", "architecture",
    "unet", "text_encoder", "vae", "**", "2", "org.example.x", "rank_pattern", "alpha_pattern", "r", "lora_alpha",
    "use_dora", "use_rslora", "bias", "modules_to_save", "target_modules", "peft_type", "", "a\n", "\x1b", "x" * 600,
]  # fmt: skip
#: Ends of names, of our files and of others'.
_ENDS = [
    *LEAVES, "embedding.a", "lora_down.weight", "lora_up.weight", "lora_A.weight", "lora_B.weight", "lora_mid.weight",
    "lora_A.default.weight", "dora_scale", "diff", "diff_b", "weight", "bias", "reg_key", "lora.down.weight", "scale",
]  # fmt: skip
_PARTS = [
    "unet", "text_encoder", "transformer", "vae", "lora_unet_mid", "lora_te1_a", "base_model.model", "..", "a b", "é",
    "\x1b[31m", "0", "1", "to_q", "x" * 600, "", "embedding", "styleinject", "__metadata__", "default", "weight",
]  # fmt: skip
_MARKS = [
    b"-0", b"1e999", b"NaN", b"Infinity", b"9" * 5000, b"1.0", b"true", b"null", b'""', b"[]", b"{}", b"[" * 2000,
    b"\\ud800", b"\\u0000", b"\xff", b"\xef\xbb\xbf", b'"a":1,"a":2', b" ", b"\n", b",", b":", b'"', b"}", b"]", b"\\",
]  # fmt: skip
_BAD = [
    b"\x00\x7c", b"\x00\xfc", b"\x01\x7c", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\x80\x7f", b"\xff\xff\x7f\x7f",
    b"\x7f", b"\x80", b"\xff", b"\x00" * 8, b"\xff" * 8, b"\xff\x7b",
]  # fmt: skip


def mutate(seed: Case, dice: Random) -> tuple[bytes, bytes | None]:
    """Bytes of a changed file, and those of the configuration beside it."""
    case = Case(
        seed.kind, dict(seed.tensors), dict(seed.metadata), copy.deepcopy(seed.document), copy.deepcopy(seed.config)
    )
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        _change_structure(case, dice)
    case.keep_hash = dice.random() < 0.02
    config = None if case.config is None else _change_text(write_json(case.config), dice, 0.05)
    try:
        header, data = lay_out(case)
    except (TypeError, ValueError, RecursionError):
        header, data = lay_out(seed)
    chance = dice.random()
    if chance < 0.12:
        _change_entry(header, dice)
    raw = _change_text(write_json(header), dice, 0.08)
    if chance > 0.9:
        data = _change_data(data, dice)
    file = join_bytes(raw, data)
    return (_change_bytes(file, dice) if dice.random() < 0.06 else file), config


def write_json(value: Any) -> bytes:
    """JSON as trainers write it; half a surrogate pair as it is."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def _change_structure(case: Case, dice: Random) -> None:
    menu: list[Callable[[Case, Random], None]] = [_change_tensor]
    if case.document is not None:
        menu = [_change_document] if case.kind == "document" else [_change_tensor, _change_tensor, _change_document]
    elif case.config is not None:
        menu = [_change_config, _change_tensor]
    elif case.kind == "peft":
        menu = [_change_inner, _change_tensor]
    if dice.random() < 0.08:
        menu = [_change_metadata]
    dice.choice(menu)(case, dice)


def _change_document(case: Case, dice: Random) -> None:
    case.document = _change_tree(case.document, dice)


def _change_config(case: Case, dice: Random) -> None:
    case.config = _change_tree(case.config, dice)


def _change_inner(case: Case, dice: Random) -> None:
    try:
        tree = json.loads(case.metadata["lora_adapter_metadata"])
    except (KeyError, TypeError, ValueError, RecursionError):  # by a change before this one
        return
    text = _change_text(write_json(_change_tree(tree, dice)), dice, 0.1)
    case.metadata["lora_adapter_metadata"] = text.decode("utf-8", "replace")


def _change_metadata(case: Case, dice: Random) -> None:
    keys = ["format", "modelspec.title", "ss_network_args", "ss_network_alpha", "lora_adapter_metadata", "styleinject"]
    key = dice.choice([*case.metadata, *keys, dice.choice(KEYS)])
    if key in case.metadata and dice.random() < 0.4:
        del case.metadata[key]
    else:
        value = dice.choice(VALUES)
        # Metadata are texts; something else is a mistake of the container's.
        case.metadata[key] = value if dice.random() < 0.1 else json.dumps(value)


def _change_tree(tree: Any, dice: Random) -> Any:
    """One node of a tree replaced, renamed, removed, added or doubled."""
    places: list[tuple[Any, Any]] = []
    level = [tree]
    while level:
        holders = [node for node in level if isinstance(node, (dict, list)) and node]
        level = []
        for holder in holders:
            pairs = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
            places += [(holder, key) for key, _ in pairs]
            level += [value for _, value in pairs]
    if not places or dice.random() < 0.01:
        return copy.deepcopy(dice.choice(VALUES))
    holder, key = dice.choice(places)
    what = dice.random()
    if what < 0.5:
        holder[key] = copy.deepcopy(dice.choice(VALUES))
    elif what < 0.6:
        del holder[key]
    elif isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif what < 0.75:
        holder[dice.choice(KEYS)] = holder.pop(key)
    else:
        other, name = dice.choice(places)
        holder[dice.choice(KEYS)] = copy.deepcopy(dice.choice((other[name], dice.choice(VALUES))))
    return tree


def _change_tensor(case: Case, dice: Random) -> None:
    if not case.tensors:
        return
    name = dice.choice(list(case.tensors))
    dtype, shape, held = case.tensors[name]
    what = dice.random()
    if what < 0.2:
        case.tensors[_change_name(name, dice)] = case.tensors.pop(name)
    elif what < 0.3:
        del case.tensors[name]
    elif what < 0.4:
        case.tensors[_change_name(name, dice)] = (dtype, list(shape), held)
    elif what < 0.5:
        case.tensors[name] = _fill(dice.choice(_DTYPES), shape, held)
    elif what < 0.6 and held:
        at = dice.randrange(len(held))
        bad = dice.choice(_BAD)
        at -= at % max(len(bad), SIZES[dtype])
        case.tensors[name] = (dtype, shape, (held[:at] + bad + held[at + len(bad) :])[: len(held)])
    else:
        case.tensors[name] = _fill(dtype, _change_shape(shape, dice), held)


def _change_name(name: str, dice: Random) -> str:
    parts = name.split(".")
    what = dice.random()
    if what < 0.45:
        words = 2 if parts[-1] in ("weight", "bias") else 1
        return ".".join([*parts[:-words], dice.choice(_ENDS)])
    at = dice.randrange(len(parts))
    if what < 0.7:
        parts[at] = dice.choice(_PARTS)
    elif what < 0.85:
        parts.insert(at, dice.choice(_PARTS))
    else:
        del parts[at]
    return ".".join(parts)


def _change_shape(shape: list[int], dice: Random) -> list[int]:
    changed = list(shape)
    what = dice.random()
    if not changed or what < 0.2:
        changed.insert(dice.randrange(len(changed) + 1), dice.choice((0, 1, 1, 2, 3)))
    elif what < 0.4:
        del changed[dice.randrange(len(changed))]
    elif what < 0.55:
        changed.reverse()
    else:
        at = dice.randrange(len(changed))
        changed[at] = dice.choice((0, 1, 2, changed[at] + 1, changed[at] * 2, max(changed[at] // 2, 0)))
    return changed


def _fill(dtype: str, shape: list[int], held: bytes) -> Entry:
    """An entry whose bytes fit its shape; small, so that a mutation never costs what it is not about."""
    count = SIZES[dtype]
    for size in shape:
        count *= size
    if count > 1 << 18:
        return "F16", [1], b"\x00\x3c"
    return dtype, shape, (held * (count // max(len(held), 1) + 1) or bytes(count))[:count].ljust(count, b"\0")


def _change_entry(header: dict[str, Any], dice: Random) -> None:
    """One field of the table as it lies there: what no writer that lays out whole tensors can say."""
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    entry = header[dice.choice(names)]
    field = dice.choice(("dtype", "shape", "data_offsets", "extra"))
    value = entry.get(field)
    if isinstance(value, list) and value and dice.random() < 0.7:
        at = dice.randrange(len(value))
        value[at] = dice.choice((*VALUES[:16], value[at] + 1, value[at] - 1, -value[at], float(value[at])))
    elif dice.random() < 0.2:
        entry.pop(field, None)
    else:
        entry[field] = dice.choice((*VALUES, *_DTYPES, "F4", "f32", "Q8"))


def _change_text(raw: bytes, dice: Random, chance: float) -> bytes:
    if dice.random() >= chance:
        return raw
    at = dice.randrange(len(raw) + 1)
    return raw[:at] + dice.choice(_MARKS) + raw[at + dice.choice((0, 0, 1, 2, 5)) :]


def _change_data(data: bytes, dice: Random) -> bytes:
    if dice.random() < 0.3 or not data:
        return data + bytes(dice.randrange(1, 9))
    if dice.random() < 0.4:
        return data[: -dice.randrange(1, 9)]
    at = dice.randrange(len(data))
    return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]


def _change_bytes(file: bytes, dice: Random) -> bytes:
    what = dice.random()
    if what < 0.4:
        at = dice.randrange(min(len(file), 2000))
        return file[:at] + bytes([file[at] ^ (1 << dice.randrange(8))]) + file[at + 1 :]
    if what < 0.6:
        return file[: dice.randrange(len(file))]
    if what < 0.8:
        length = dice.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(file) - 8, len(file) - 7, 33 << 20))
        return length.to_bytes(8, "little") + file[8:]
    at = dice.randrange(min(len(file), 2000))
    return file[:at] + dice.randbytes(dice.randrange(1, 9)) + file[at:]
