from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from si_hub import errors, format
from si_hub.adapter import Adapter
from si_hub.storage.header import SafetensorsFile
from si_hub.storage.tensors import Tensor

Edited = Callable[[Callable[[dict[str, Any]], object]], Path]


def test_what_was_written_is_valid(written: SafetensorsFile) -> None:
    assert format.validate(written.path) == format.read(written.path)


def test_an_unknown_field_that_a_reader_keeps_is_not_valid_in_1_0(edited: Edited) -> None:
    path = edited(lambda document: document.update(mood="blue"))
    with pytest.warns(errors.FormatWarning), pytest.raises(errors.DocumentError, match="mood"):
        format.validate(path)


def test_a_later_minor_version_is_checked_as_far_as_it_is_known(edited: Edited) -> None:
    path = edited(lambda document: document.update(mood="blue", format_version="1.3"))
    with pytest.warns(errors.FormatWarning, match="mood"):
        format.validate(path)


@pytest.mark.parametrize("key", ["format", "modelspec.architecture", "modelspec.hash_sha256", "modelspec.title"])
@pytest.mark.parametrize("text", ["something else", None])
def test_derived_metadata_that_disagree_are_named(key: str, text: str | None, written: SafetensorsFile) -> None:
    raw = written.path.read_bytes()
    header = json.loads(raw[8 : written.data_start])
    header["__metadata__"][key] = text
    header["__metadata__"] = {key: value for key, value in header["__metadata__"].items() if value is not None}
    changed = json.dumps(header).encode()
    written.path.write_bytes(len(changed).to_bytes(8, "little") + changed + raw[written.data_start :])
    format.read(written.path)
    with pytest.raises(errors.BadMetadata) as caught:
        format.validate(written.path)
    assert caught.value.key == key


def test_damaged_data_are_a_checksum_error(written: SafetensorsFile) -> None:
    raw = bytearray(written.path.read_bytes())
    raw[-1] ^= 1
    written.path.write_bytes(raw)
    with pytest.raises(errors.ChecksumError):
        format.validate(written.path)


def test_nan_is_found(small: Adapter, tmp_path: Path) -> None:
    small.components["unet"].layers["a.b"].tensors["gain"] = Tensor.from_bytes("F16", (4,), b"\0\x7c" + bytes(6))
    format.write(small, tmp_path / "x", check_finite=False)
    with pytest.raises(errors.NotFinite, match="1 of 4") as caught:
        format.validate(tmp_path / "x")
    assert caught.value.key == "unet.a.b.gain"
