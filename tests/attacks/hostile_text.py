"""Texts that attack whoever reads them, files that say them in every field, and what an output may hold."""

from __future__ import annotations

import json
import struct
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from si_hub import format as file_format
from si_hub.errors import SiHubError
from tests.places import GOLDEN

#: Begins as a list; clears the screen, names the window, forges a line, turns the direction, hides, is a formula, HTML,
#: a link and code; and goes on for a hundred kilobytes in all.
NASTY = (
    "- a\x1b[2J\x1b]0;owned\x07\r\n1. FORGED\x9b31m\x85FORGED\u2028FORGED\u202e\u2066\u200b\u3164\ufeff\u00ad\u034f\n"
    "# FORGED $\\frac{$<script>x</script>[l](http://evil.example)`|\U000e0041"
)
LONG = NASTY + "long " * 3000
#: No name of a file may be longer, or have a slash.
FILE_NAME = "- a\x1b[2J\x1b]0;owned\x07\r\nFORGED\x9b31m\u2028FORGED\u202e\u200b\u3164$\\frac{$<script>"
#: The longest line of any output: an error's, which has a sentence and a hint besides file and key.
LINE = 8200

Change = Callable[[dict[str, Any], dict[str, Any]], object]


def check_output(text: str) -> None:
    """Lines of seen characters, none of them a stranger's own, none endless.

    What Unicode calls control, format, surrogate, private, unassigned and separator is unseen, and so are the fillers.
    """
    for line in text.split("\n"):
        unseen = {c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")}
        assert not unseen | ({"\u3164", "\u034f"} & set(line)), (unseen, line[:300])
        assert not line.lstrip(" #0123456789.-").startswith("FORGED"), line[:300]
        assert len(line) <= LINE, line[:300]


def check_json(text: str) -> None:
    """Valid JSON of seen characters, of any length: scripts get all of it."""
    json.loads(text, parse_constant=lambda name: 1 / 0)
    unseen = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")}
    assert not unseen | ({"\u3164", "\u034f"} & set(text))


def write_native(file: Path, change: Change) -> Path:
    """A golden file whose document and header ``change(document, header)`` has spoiled; its data stay."""
    raw = (GOLDEN / "one_branch.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    document = json.loads(header["__metadata__"]["styleinject"])
    change(document, header)
    header["__metadata__"]["styleinject"] = json.dumps(document)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    return file


def write_valid(file: Path, change: Change) -> Path | None:
    """The same as a file that keeps every rule, its hashes and titles renewed; None where the text breaks one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapter = file_format.read(write_native(file, change))
            file_format.write(adapter, file, overwrite=True)
            file_format.validate(file)
    except SiHubError:
        return None
    return file


def _rename(table: dict[str, Any], old: str, new: str) -> None:
    table[new] = table.pop(old)


def _set(place: str, field: str, value: Any) -> Change:
    """Put ``value`` at ``place.field`` of the document."""

    def change(document: dict[str, Any], _: dict[str, Any]) -> None:
        table = document
        for name in place.split(".") if place else ():
            table = table[name]
        table[field] = value

    return change


def _set_metadata(key: str, text: str) -> Change:
    return lambda _, header: header["__metadata__"].update({key: text})


def _rename_tensor(name: str) -> Change:
    return lambda _, header: _rename(header, "unet.conv_in.down.weight", name)


def native_changes(text: str) -> Iterator[tuple[str, Change]]:
    """Every place of a StyleInject file in which a text can stand, and how it gets there."""
    places = {
        "": ("title", "author", "license", "format_version", "tensors_sha256"),
        "base_model": ("architecture", "repo_id", "revision", "prediction_type", "sha256"),
        "components.unet": ("class_name", "transform", "pool"),
        "provenance": ("family", "naming", "tool", "alpha_layout"),
        "provenance.source": ("name",),
    }
    for place, fields in places.items():
        for field in fields:
            yield f"{place}.{field}".lstrip("."), _set(place, field, text)
    for field in ("tags", "trigger_words", "preview_prompts", "branches", "requires"):
        yield field, _set("", field, [text, "two"])
    for field in ("fidelity", "training"):
        yield field, _set("", field, {text: text, "rows": [{text: text, "b": 1}]})
        yield f"{field} of records", _set("", field, {text: [{text: text}]})
    yield "exceptions", _set("components.unet", "exceptions", {"transform": {"add": [text]}})
    yield "component", lambda document, _: _rename(document["components"], "unet", text)
    yield "extensions", _set("extensions", text, text)
    yield "extension", _set("extensions", "a.b", text)
    for place in ("", "base_model", "components.unet", "provenance"):
        yield f"unknown in {place or 'document'}", _set_unknown(place, text)
    for key in (text, "ss_output_name", "modelspec.title", "modelspec.architecture", "ss_network_module"):
        yield f"metadata {'key' if key == text else key}", _set_metadata(key, text)
    names = {
        "tensor": text, "module": f"unet.{text}.down.weight", "leaf": f"unet.conv_in.{text}",
        "tensor's component": f"{text}.conv_in.down.weight",
    }  # fmt: skip
    for place, name in names.items():
        yield place, _rename_tensor(name)
    for field, value in {"dtype": text, "shape": [text], text: text}.items():
        yield f"{'entry' if field == text else field} of a tensor", _set_entry(field, value)


def _set_unknown(place: str, text: str) -> Change:
    """A field of a later minor version, which is kept, with a warning."""

    def change(document: dict[str, Any], header: dict[str, Any]) -> None:
        document["format_version"] = "1.9"
        _set(place, text, text)(document, header)

    return change


def _set_entry(field: str, value: Any) -> Change:
    return lambda _, header: header["unet.conv_in.down.weight"].update({field: value})


STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
_KEYS = (
    "ss_base_model_version", "ss_network_module", "ss_network_args", "ss_output_name", "ss_sd_model_name",
    "ss_network_alpha", "ss_v2", "modelspec.architecture", "modelspec.title", "modelspec.prediction_type",
    "base_model", "lora_adapter_metadata", "sshs_model_hash", "software",
)  # fmt: skip


def foreign_files(text: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Foreign adapters that say ``text`` in one place each: names, metadata, configuration."""
    names = {
        "stem": f"lora_unet_{text}.lora_down.weight",
        "suffix": f"{STEM}.{text}",
        "name": text,
        "container": f"{text}.{PEFT}.lora_A.weight",
        "embedding": f"bundle_emb.{text}.string_to_param.*",
        "slot": f"{PEFT}.lora_A.{text}.weight",
    }
    for place, name in names.items():
        yield f"tensor {place}", _write_lora(folder / f"{place}.safetensors", {name: np.ones((2, 320), "<f2")}, {})
    for key in _KEYS:
        yield f"metadata {key}", _write_lora(folder / f"{key}.safetensors", {}, {key: text})
    yield "metadata key", _write_lora(folder / "key.safetensors", {}, {text: text})
    said = {"lora_adapter_metadata": json.dumps({text: text})}
    yield "metadata JSON", _write_lora(folder / "json.safetensors", {}, said)
    plain = ("peft_type", "base_model_name_or_path", "task_type", "r", "lora_alpha", "bias", "unknown", "revision")
    changes: dict[str, dict[str, Any]] = {key: {key: text} for key in plain}
    changes |= {
        "target_modules": {"target_modules": [text]},
        "modules_to_save": {"modules_to_save": [text]},
        "rank_pattern": {"rank_pattern": {text: 8}},
        "alpha_pattern": {"alpha_pattern": {text: 8}},
        "auto_mapping": {"auto_mapping": {"base_model_class": text, "parent_library": text}},
        "key of config": {text: text},
    }
    for place, change in changes.items():
        home = folder / f"peft {place}"
        home.mkdir()
        pair = {f"{PEFT}.lora_A.weight": np.ones((4, 320), "<f2"), f"{PEFT}.lora_B.weight": np.ones((320, 4), "<f2")}
        save_file(pair, home / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q"], **change}
        (home / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        yield f"PEFT {place}", home


def _write_lora(file: Path, more: dict[str, Any], metadata: dict[str, str]) -> Path:
    pair = {
        f"{STEM}.lora_down.weight": np.ones((2, 320), "<f2"), f"{STEM}.lora_up.weight": np.ones((320, 2), "<f2"),
        f"{STEM}.alpha": np.array(2, "<f2"),
    }  # fmt: skip
    save_file(pair | more, file, metadata=metadata or None)
    return file
