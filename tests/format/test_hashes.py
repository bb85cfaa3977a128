from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from si_hub import errors, format
from si_hub.adapter import Adapter, Layer
from si_hub.format.hashes import check_data
from si_hub.storage.header import SafetensorsFile, read_safetensors
from si_hub.storage.tensors import Tensor


def test_the_identity_is_the_hash_of_this_text(written: SafetensorsFile) -> None:
    raw = written.path.read_bytes()
    digest = hashlib.sha256(raw[written.data_start :]).hexdigest()
    text = (
        '{"branches":[],"components":{"unet":{"alpha":1,"class_name":"UNet2DConditionModel","pool":"mean",'
        '"transform":"add"}},"tensors":{"unet.a.b.down.weight":{"data_offsets":[0,24],"dtype":"F32","shape":[2,3]},'
        '"unet.a.b.up.weight":{"data_offsets":[24,56],"dtype":"F32","shape":[4,2]}},'
        f'"tensors_sha256":"{digest}"}}'
    )
    document = format.read_document(written)
    assert format.identity(document, written) == hashlib.sha256(text.encode()).hexdigest()


def test_what_an_adapter_is_called_does_not_change_what_it_is(small: Adapter, tmp_path: Path) -> None:
    plain = format.write(small, tmp_path / "a")
    small.about = {"title": "Another", "tags": ["x"]}
    small.metadata = {"ss_steps": "1"}
    assert format.write(small, tmp_path / "b").identity == plain.identity


def test_what_an_adapter_does_changes_what_it_is(small: Adapter, tmp_path: Path) -> None:
    layer = small.components["unet"].layers["a.b"]
    found = {format.write(small, tmp_path / "0").identity}
    layer.alpha = 2.0
    found.add(format.write(small, tmp_path / "1").identity)
    layer.transform = "adain"
    found.add(format.write(small, tmp_path / "2").identity)
    small.branches = ("ink",)
    found.add(format.write(small, tmp_path / "3").identity)
    layer.tensors["up.weight"] = Tensor.from_bytes("F32", (4, 2), b"\0\0\0\x3f" * 8)
    found.add(format.write(small, tmp_path / "4").identity)
    layer.tensors["up.weight"] = Tensor.from_bytes("F16", (8, 2), b"\0\0\0\x3f" * 8)
    found.add(format.write(small, tmp_path / "5").identity)
    small.components["unet"].layers["c"] = Layer(dict(layer.tensors), alpha=2.0, transform="adain")
    found.add(format.write(small, tmp_path / "6").identity)
    assert len(found) == 7


def test_the_data_section_is_hashed_from_its_first_to_its_last_byte(written: SafetensorsFile) -> None:
    raw = written.path.read_bytes()
    expected = json.loads(written.metadata["styleinject"])["tensors_sha256"]
    check_data(written, expected)
    for at in (written.data_start, written.size - 1):
        damaged = bytearray(raw)
        damaged[at] ^= 0x80
        written.path.write_bytes(damaged)
        with pytest.raises(errors.ChecksumError, match="not those that were written"):
            check_data(read_safetensors(written.path), expected)
