from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si_hub import errors, format
from si_hub.adapter import Adapter
from si_hub.storage.header import SafetensorsFile, read_safetensors
from tests.places import GOLDEN

Edited = Callable[[Callable[[dict[str, Any]], object]], Path]


def put(*path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A change of a document: ``value`` at a path of keys."""

    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document.setdefault(key, {})
        document[path[-1]] = value

    return change


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.pop(key)


UNET = ("components", "unet")
SAME = "gives a.b two values"
DOCUMENTS: dict[str, tuple[Callable[[dict[str, Any]], object], type[errors.SiHubError], str]] = {
    "no version": (drop("format_version"), errors.DocumentError, "format_version"),
    "version 2": (put("format_version", value="2.0"), errors.UnsupportedVersion, "pip install --upgrade"),
    "an unknown requirement": (put("requires", value=["hologram"]), errors.UnsupportedVersion, "hologram"),
    "no base model": (drop("base_model"), errors.DocumentError, "base_model"),
    "no architecture": (put("base_model", value={}), errors.DocumentError, "styleinject.base_model"),
    "no components": (drop("components"), errors.DocumentError, "components"),
    "no hash": (drop("tensors_sha256"), errors.DocumentError, "tensors_sha256"),
    "a hash in capitals": (put("tensors_sha256", value="A" * 64), errors.DocumentError, "styleinject.tensors_sha256"),
    "a hash with a line feed": (put("tensors_sha256", value="a" * 64 + "\n"), errors.DocumentError, "tensors_sha256"),
    "an unknown transform": (put(*UNET, "transform", value="melt"), errors.DocumentError, "components.unet.transform"),
    "an unknown pool": (put(*UNET, "pool", value="max"), errors.DocumentError, "components.unet.pool"),
    "alpha as text": (put(*UNET, "alpha", value="8"), errors.DocumentError, "components.unet.alpha"),
    "a component too many": (
        put("components", "vae", value={"alpha": None, "transform": "add", "pool": "mean"}),
        errors.MissingTensor, "components.vae",
    ),
    "a component too few": (
        put("components", value={"vae": {"alpha": None, "transform": "add", "pool": "mean"}}),
        errors.DocumentError, "unet",
    ),
    "an unsafe component": (
        put("components", "../x", value={"alpha": None, "transform": "add", "pool": "mean"}),
        errors.DocumentError, "../x",
    ),
    "branches that are not there": (put("branches", value=["ink", "neon"]), errors.DocumentError, "branches"),
    "two branches of one name": (put("branches", value=["ink", "ink"]), errors.DocumentError, "styleinject.branches"),
    "a pattern that matches nothing": (
        put(*UNET, "exceptions", value={"transform": {"variance": ["x.**"]}}), errors.DocumentError, "matches no layer",
    ),
    "a pattern with a wild card inside a word": (
        put(*UNET, "exceptions", value={"transform": {"variance": ["a*"]}}), errors.DocumentError, "a*",
    ),
    "a pattern with two double stars": (
        put(*UNET, "exceptions", value={"transform": {"variance": ["**.a.**"]}}), errors.DocumentError, "**.a.**",
    ),
    "two values for one layer": (
        put(*UNET, "exceptions", value={"transform": {"variance": ["a.*"], "adain": ["**.b"]}}),
        errors.DocumentError, SAME,
    ),
    "an exception for an unknown value": (
        put(*UNET, "exceptions", value={"transform": {"melt": ["a.*"]}}), errors.DocumentError, "melt",
    ),
    "one group": (put(*UNET, "exceptions", value={"groups": {"1": ["a.b"]}}), errors.DocumentError, "groups"),
    "groups that do not divide": (
        put(*UNET, "exceptions", value={"groups": {"3": ["a.b"]}}), errors.LayerShapeError, "unet.a.b",
    ),
    "too deep": (put("training", value=json.loads("[" * 40 + "]" * 40)), errors.TooDeep, "32"),
    "too large": (put("training", value={"notes": "x" * 70_000}), errors.DocumentTooLarge, "65536"),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_that_breaks_a_rule_is_its_own_error(case: str, edited: Edited) -> None:
    change, error, words = DOCUMENTS[case]
    path = edited(change)
    with pytest.raises(error) as caught:
        format.read(path)
    assert type(caught.value) is error
    assert caught.value.file == str(path)
    assert words in str(caught.value)


TEXTS: dict[str, tuple[str, type[errors.SiHubError], str]] = {
    "no json": ("{", errors.HeaderSyntaxError, "not JSON"),
    "no object": ("[]", errors.DocumentError, "not a JSON object"),
    "a number": ("1", errors.DocumentError, "not a JSON object"),
    "empty": ("", errors.HeaderSyntaxError, "not JSON"),
    "nan": ('{"a":NaN}', errors.NonFiniteNumber, "NaN"),
    "beyond double": ('{"a":1e999}', errors.NonFiniteNumber, "1e999"),
    "an integer beyond double": ('{"a":1' + "0" * 400 + "}", errors.NonFiniteNumber, "1000"),
    "an absurd integer": ('{"a":1' + "0" * 5000 + "}", errors.NonFiniteNumber, "1000"),
    "twice": ('{"a":1,"a":2}', errors.DuplicateKey, "a"),
    "half a surrogate pair": ('{"a":"\\ud800"}', errors.NotUtf8, "surrogate"),
    "very deep": ("[" * 30_000 + "]" * 30_000, errors.TooDeep, "deeply"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_document_whose_text_is_wrong_is_its_own_error(case: str, tmp_path: Path) -> None:
    text, error, words = TEXTS[case]
    header = json.dumps({"__metadata__": {"styleinject": text}}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header)
    file = read_safetensors(tmp_path / "x")
    assert format.is_styleinject(file)
    with pytest.raises(error) as caught:
        format.read_document(file)
    assert type(caught.value) is error
    assert caught.value.file == str(tmp_path / "x")
    assert words in str(caught.value)


def test_a_file_without_a_document_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert not format.is_styleinject(read_safetensors(tmp_path / "x"))
    with pytest.raises(errors.NotStyleInject, match=r"si_hub\.convert\(FILE\)"):
        format.read(tmp_path / "x")


def retensored(written: SafetensorsFile, change: Callable[[dict[str, Any]], object], data: bytes | None = None) -> Path:
    """The small file with its tensor table changed."""
    raw = written.path.read_bytes()
    header = json.loads(raw[8 : written.data_start])
    change(header)
    text = json.dumps(header).encode()
    path = written.path.with_name("retensored")
    path.write_bytes(len(text).to_bytes(8, "little") + text + (raw[written.data_start :] if data is None else data))
    return path


def scalar(dtype: str, size: int, shape: list[int]) -> Callable[[dict[str, Any]], object]:
    return put("unet.a.b.alpha", value={"dtype": dtype, "shape": shape, "data_offsets": [56, 56 + size]})


ALPHAS: dict[str, tuple[Callable[[dict[str, Any]], object], bytes, type[errors.SiHubError]]] = {
    "half precision": (scalar("F16", 2, []), bytes(2), errors.LeafDtypeError),
    "integer": (scalar("I64", 8, []), bytes(8), errors.LeafDtypeError),
    "a vector": (scalar("F32", 4, [1]), bytes(4), errors.LayerShapeError),
    "nan": (scalar("F32", 4, []), b"\xff\xff\xff\x7f", errors.DocumentError),
}


@pytest.mark.parametrize("case", ALPHAS)
def test_an_alpha_is_one_finite_float(case: str, written: SafetensorsFile) -> None:
    change, data, error = ALPHAS[case]
    with pytest.raises(error) as caught:
        format.read(retensored(written, change, bytes(56) + data))
    assert type(caught.value) is error
    assert caught.value.key == "unet.a.b.alpha"


def test_a_scalar_alpha_overrides_the_default(written: SafetensorsFile) -> None:
    path = retensored(written, scalar("F64", 8, []), bytes(56) + b"\0\0\0\0\0\0\xe0\x3f")
    assert format.read(path).components["unet"].layers["a.b"].alpha == 0.5


def rename(old: str, new: str) -> Callable[[dict[str, Any]], object]:
    return lambda header: header.__setitem__(new, header.pop(old))


NAMES: dict[str, tuple[str, str, type[errors.SiHubError]]] = {
    "unknown leaf": ("unet.a.b.up.weight", "unet.a.b.lora_up.weight", errors.UnknownLeaf),
    "path traversal": ("unet.a.b.up.weight", "unet.../../x.up.weight", errors.BadTensorName),
    "half a pair": ("unet.a.b.up.weight", "unet.a.b.gain", errors.MissingTensor),
    "an alpha without a pair": ("unet.a.b.up.weight", "unet.c.alpha", errors.MissingTensor),
    "another component": ("unet.a.b.up.weight", "vae.a.b.up.weight", errors.DocumentError),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_tensor_name_that_breaks_a_rule_is_its_own_error(case: str, written: SafetensorsFile) -> None:
    old, new, error = NAMES[case]
    with pytest.raises(error) as caught:
        format.read(retensored(written, rename(old, new)))
    assert type(caught.value) is error


def test_reading_touches_no_tensor_and_verifying_all_of_them(written: SafetensorsFile) -> None:
    raw = bytearray(written.path.read_bytes())
    raw[-1] ^= 1
    written.path.write_bytes(raw)
    format.read(written.path)
    with pytest.raises(errors.ChecksumError, match="Download") as caught:
        format.read(written.path, verify=True)
    assert caught.value.found == hashlib.sha256(raw[written.data_start :]).hexdigest()


def test_unknown_fields_are_named_in_one_warning_and_kept(edited: Edited, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document |= {"format_version": "1.7", "mood": ["blue"], "requires": []}
        document["base_model"]["vae"] = "x"
        document["components"]["unet"]["dropout"] = 0.5
        document["provenance"] = {"family": "lora", "weather": {"rain": True}}

    path = edited(change)
    with pytest.warns(errors.FormatWarning) as caught:
        adapter = format.read(path)
    assert len(caught) == 1
    for field in ("mood", "base_model.vae", "components.unet.dropout", "provenance.weather"):
        assert field in str(caught[0].message)
    written = format.write(adapter, tmp_path / "again")
    before = json.loads(read_safetensors(path).metadata["styleinject"])
    assert written.document == before
    with pytest.warns(errors.FormatWarning):
        assert format.read(tmp_path / "again").about == adapter.about


def test_an_unknown_field_in_a_1_0_file_is_kept_too(edited: Edited, tmp_path: Path) -> None:
    path = edited(put("mood", value="blue"))
    with pytest.warns(errors.FormatWarning, match="mood"):
        adapter = format.read(path)
    assert format.write(adapter, tmp_path / "again").document["mood"] == "blue"


def test_a_later_minor_version_without_news_is_read_in_silence_and_written_as_1_0(
    edited: Edited, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter = format.read(edited(put("format_version", value="1.7")))
    assert format.write(adapter, tmp_path / "again").document["format_version"] == "1.0"


def test_foreign_metadata_are_kept_and_derived_ones_are_not(small: Adapter, tmp_path: Path) -> None:
    small.metadata = {"ss_steps": "10", "modelspec.thumbnail": "data:", "modelspec.title": "old", "format": "np"}
    format.write(small, tmp_path / "x")
    adapter = format.read(tmp_path / "x")
    assert adapter.metadata == {"ss_steps": "10", "modelspec.thumbnail": "data:"}
    assert read_safetensors(tmp_path / "x").metadata["format"] == "pt"


def test_numbers_beyond_2_to_53_come_back_as_what_they_were(small: Adapter, tmp_path: Path) -> None:
    small.about = {"training": {"tokens": 1e20, "seed": 2**53 - 1, "minus": -1e300}}
    format.write(small, tmp_path / "x")
    adapter = format.read(tmp_path / "x")
    assert adapter.about == small.about
    format.write(adapter, tmp_path / "y")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_reading_a_document_imports_neither_torch_nor_jsonschema() -> None:
    code = (
        "import sys; from si_hub import format; from si_hub.storage.header import read_safetensors as r;"
        "format.read_document(r(sys.argv[1])); print({'torch', 'numpy', 'jsonschema', 'rfc8785'} & set(sys.modules))"
    )
    file = str(GOLDEN / "one_branch.safetensors")
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_of_a_golden_header_brings_another_exception(data: st.DataObject, tmp_path: Path) -> None:
    source = data.draw(st.sampled_from(sorted(GOLDEN.iterdir())))
    raw = source.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    at = data.draw(st.integers(8, 7 + length))
    new = data.draw(
        st.binary(min_size=1, max_size=1) | st.sampled_from([b'"', b"{", b"]", b"*", b".", b"0", b"9", b"-", b"\\"])
    )
    (tmp_path / "x").write_bytes(raw[:at] + new + raw[at + 1 :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.FormatWarning)
        try:
            adapter = format.read(tmp_path / "x")
        except errors.SiHubError as error:
            message = str(error)
        else:
            message = ""
            assert adapter.components
    assert not message or message.isprintable()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_change_of_a_document_brings_another_exception(data: st.DataObject, tmp_path: Path) -> None:
    """A random value in place of a random part of a good document."""
    raw = data.draw(st.sampled_from(sorted(GOLDEN.iterdir()))).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    document = json.loads(header["__metadata__"]["styleinject"])
    place: Any = document
    key: Any = data.draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
    place[key] = data.draw(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=4)
            | st.sampled_from(["**", "add"]),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
            max_leaves=4,
        )
    )
    header["__metadata__"]["styleinject"] = json.dumps(document)
    text = json.dumps(header).encode()
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.FormatWarning)
        try:
            adapter = format.read(tmp_path / "x")
        except errors.SiHubError:
            return
    format.write(adapter, tmp_path / "y", overwrite=True)
