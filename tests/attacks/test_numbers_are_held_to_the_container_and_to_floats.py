"""Numbers that no float or no header holds: our errors, and never less strict than the safetensors library."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import jsonschema
import pytest
import safetensors
from safetensors.numpy import load_file

from si_hub import schemas
from si_hub.converters import convert_source
from si_hub.errors import FormatError
from si_hub.storage.header import read_safetensors
from tests.sparse import write_zeros


@pytest.mark.parametrize("name", ["r", "lora_alpha"])
def test_a_whole_number_of_401_digits_is_no_scale(name: str, tmp_path: Path) -> None:
    stem = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    pair = {f"{stem}.lora_A.weight": ("F16", (2, 320)), f"{stem}.lora_B.weight": ("F16", (320, 2))}
    write_zeros(tmp_path / "adapter_model.safetensors", pair)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, name: 10**400}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(FormatError, match=f"{name}: the adapter's configuration has no usable number"):
        convert_source(tmp_path, base="sd15")


@pytest.mark.parametrize(
    "entry",
    [
        '{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}',
        '{"dtype":"U8","shape":[0],"data_offsets":[-0,0]}',
        '{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,0]}',
        '{"dtype":"U8","shape":[0.0],"data_offsets":[0,0]}',
        '{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}',
        '{"dtype":"U8","shape":[0],"data_offsets":[0,0],"more":1' + "0" * 400 + "}",
    ],
)
def test_what_the_library_refuses_is_refused(entry: str, tmp_path: Path) -> None:
    text = f'{{"x-0":{entry}}}'.encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(safetensors.SafetensorError):
        load_file(path)
    with pytest.raises(FormatError):
        read_safetensors(path)


def test_a_minus_in_a_name_is_none_in_a_number(tmp_path: Path) -> None:
    path = write_zeros(tmp_path / "x.safetensors", {"a-0,": ("U8", (0,))}, {"b": ":-0,"})
    assert read_safetensors(path).tensors.keys() == {"a-0,"}


@pytest.mark.parametrize("strict", [True, False])
def test_no_text_passes_a_schema_with_a_line_break_behind_it(strict: bool) -> None:
    document = {
        "format_version": "1.0", "base_model": {"architecture": "sd15"}, "tensors_sha256": "0" * 64,
        "components": {"unet": {"alpha": None, "transform": "add", "pool": "mean"}},
    }  # fmt: skip
    schema = jsonschema.Draft202012Validator(schemas.load_schema("1.0", strict=strict))
    assert schema.is_valid(document)
    assert not schema.is_valid({**document, "components": {"unet\n": document["components"]["unet"]}})  # type: ignore[index]
    assert not schema.is_valid({**document, "extensions": {"org.example\n": 1}})
