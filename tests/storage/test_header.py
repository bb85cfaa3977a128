from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si_hub import errors
from si_hub.storage import header
from si_hub.storage.header import HEADER_LIMIT, parse_header, read_safetensors
from si_hub.storage.system import read_at
from si_hub.storage.tensors import Span
from tests.systems import IS_ROOT, posix_alone

MakeFile = Callable[..., Path]

GOLDEN = (
    b"\x50\x00\x00\x00\x00\x00\x00\x00"
    b'{"__metadata__":{"a":"\xc3\xa9"},"x":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}'
    b"\x01\x00\xff\xff"
)


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_golden_bytes_read_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "golden"
    path.write_bytes(GOLDEN)
    file = read_safetensors(path)
    assert (file.size, file.header_size, file.data_start) == (92, 80, 88)
    assert file.metadata == {"a": "é"}
    assert list(file.tensors) == ["x"]
    assert file.tensors["x"].dtype == "I16"
    assert file.tensors["x"].shape == (2,)
    assert file.tensors["x"].pieces == (Span(path, 88, 4),)
    assert file.tensors["x"].numpy().tolist() == [1, -1]


def test_the_safetensors_library_agrees_about_a_file_of_its_own(tmp_path: Path) -> None:
    import numpy
    from safetensors.numpy import save_file

    arrays = {f"t{i}.weight": numpy.arange(i * 6, dtype="<f4").reshape(i, 2, 3) for i in range(5)}
    path = tmp_path / "library.safetensors"
    save_file(arrays, path, metadata={"k": "v", "ü": "\n\u2028"})
    file = read_safetensors(path)
    assert file.metadata == {"k": "v", "ü": "\n\u2028"}
    assert set(file.tensors) == set(arrays)
    for name, array in arrays.items():
        numpy.testing.assert_array_equal(file.tensors[name].numpy(), array)


def test_zero_size_tensors_and_an_empty_table_are_fine(make_file: MakeFile) -> None:
    header = json.dumps(
        {"a": entry(shape=[0, 7], offsets=[0, 0]), "b": entry(), "c": entry(shape=[3, 0], offsets=[4, 4])}
    )
    assert {name: t.shape for name, t in read_safetensors(make_file(header, bytes(4))).tensors.items()} == {
        "a": (0, 7), "b": (1,), "c": (3, 0),
    }  # fmt: skip
    assert read_safetensors(make_file("{}")).tensors == {}


def test_trailing_spaces_belong_to_the_header(make_file: MakeFile) -> None:
    assert read_safetensors(make_file('{"__metadata__":{}}     ')).header_size == 24


WHOLE: dict[str, tuple[bytes, type[errors.SiHubError], str]] = {
    "empty": (b"", errors.NotSafetensors, "is empty"),
    "seven bytes": (b"\x02\0\0\0\0\0\0", errors.NotSafetensors, "too short"),
    "pickle": (b"\x80\x02}q\x00(X\x05\x00\x00\x00modelq\x01", errors.NotSafetensors, "a pickle"),
    "pickle protocol 4": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94", errors.NotSafetensors, "a pickle"),
    "zip": (b"PK\x03\x04\x00\x00\x08\x08" + bytes(40), errors.NotSafetensors, "zip archive"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(40), errors.NotSafetensors, "GGUF"),
    "html": (b"<!DOCTYPE html><html><head></head></html>", errors.NotSafetensors, "HTML page"),
    "html without doctype": (b"<html><body>403</body></html>", errors.NotSafetensors, "HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", errors.NotSafetensors, "git lfs pull"),
    "json": (b'{"peft_type": "LORA", "r": 8}', errors.NotSafetensors, "JSON text"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(40), errors.NotSafetensors, "gzip"),
    "size nonsense": (b"\xff" * 16, errors.HeaderTooLarge, "18446744073709551615"),
    "header over the limit": (struct.pack("<Q", HEADER_LIMIT + 1) + b"{}", errors.HeaderTooLarge, str(HEADER_LIMIT)),
    "ends in the header": (struct.pack("<Q", 900) + b'{"a":', errors.TruncatedFile, "908 bytes"),
    "zeros": (bytes(64), errors.HeaderSyntaxError, "does not begin with {"),
}


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_no_safetensors_file_is_told_apart(case: str, tmp_path: Path) -> None:
    content, error, words = WHOLE[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        read_safetensors(path)
    assert type(caught.value) is error
    assert caught.value.file == str(path)
    assert words in str(caught.value)


def test_a_header_whose_length_looks_like_a_pickle_is_read(make_file: MakeFile) -> None:
    path = make_file('{"__metadata__":{"pad":"' + "x" * (0x280 - 27) + '"}}')
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert len(read_safetensors(path).metadata["pad"]) == 0x280 - 27


HEADERS: dict[str, tuple[str | bytes, type[errors.SiHubError], str | None, str]] = {
    "not utf-8": (b'{"a\xff":1}', errors.NotUtf8, None, "byte 3"),
    "half a surrogate pair in a name": ('{"\\ud800":1}', errors.NotUtf8, None, "surrogate"),
    "half a surrogate pair in metadata": ('{"__metadata__":{"k":"\\udc00"}}', errors.NotUtf8, None, "surrogate"),
    "not json": ("{]", errors.HeaderSyntaxError, None, "not JSON"),
    "trailing comma": ('{"__metadata__":{},}', errors.HeaderSyntaxError, None, "not JSON"),
    "two values": ("{}{}", errors.HeaderSyntaxError, None, "not JSON"),
    "a list": ("[]", errors.HeaderSyntaxError, None, "begin with {"),
    "leading space": (" {}", errors.HeaderSyntaxError, None, "begin with {"),
    "byte order mark": (b"\xef\xbb\xbf{}", errors.HeaderSyntaxError, None, "begin with {"),
    "too deep": ('{"a":' + "[" * 200_000 + "]" * 200_000 + "}", errors.TooDeep, None, "deeply"),
    "nan": ('{"a":NaN}', errors.NonFiniteNumber, None, "NaN"),
    "infinity": ('{"a":-Infinity}', errors.NonFiniteNumber, None, "-Infinity"),
    "a float beyond double": ('{"a":1e999}', errors.NonFiniteNumber, None, "1e999"),
    "an integer of 5000 digits": ('{"a":' + "9" * 5000 + "}", errors.HeaderSyntaxError, None, "absurd number"),
    "duplicate tensor": ('{"twin":{},"x":1,"twin":{}}', errors.DuplicateKey, "twin", "twice"),
    "duplicate metadata": ('{"__metadata__":{"k":"1","k":"2"}}', errors.DuplicateKey, "k", "twice"),
    "duplicate metadata tables": ('{"__metadata__":{},"__metadata__":{}}', errors.DuplicateKey, "__metadata__", "same"),
    "metadata is a list": ('{"__metadata__":[]}', errors.BadMetadata, "__metadata__", "not an object"),
    "metadata is null": ('{"__metadata__":null}', errors.BadMetadata, "__metadata__", "not an object"),
    "metadata value is a number": ('{"__metadata__":{"k":1}}', errors.BadMetadata, "__metadata__.k", "must be text"),
    "metadata value is an object": ('{"__metadata__":{"k":{}}}', errors.BadMetadata, "__metadata__.k", "must be text"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_breaks_a_rule_of_json_is_its_own_error(case: str, make_file: MakeFile) -> None:
    header, error, key, words = HEADERS[case]
    path = make_file(header)
    with pytest.raises(error) as caught:
        read_safetensors(path)
    assert type(caught.value) is error
    assert (caught.value.file, caught.value.key) == (str(path), key)
    assert words in str(caught.value)


ENTRIES: dict[str, tuple[dict[str, object], bytes, type[errors.SiHubError], str]] = {
    "not an object": ({"a": [1]}, b"", errors.BadTensorEntry, "not an object"),
    "no dtype": ({"a": {"shape": [], "data_offsets": [0, 4]}}, bytes(4), errors.BadTensorEntry, "no dtype"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4), errors.BadTensorEntry, "no shape"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), errors.BadTensorEntry, "no data_offsets"),
    "dtype is a number": ({"a": entry(dtype=32)}, bytes(4), errors.BadTensorEntry, "dtype is not text"),
    "unknown dtype": ({"a": entry(dtype="F31")}, bytes(4), errors.UnknownDtype, "F31"),
    "lower-case dtype": ({"a": entry(dtype="f32")}, bytes(4), errors.UnknownDtype, "f32"),
    "negative size": ({"a": entry(shape=[-1])}, bytes(4), errors.BadTensorEntry, "list of sizes"),
    "true as a size": ({"a": entry(shape=[True])}, bytes(4), errors.BadTensorEntry, "list of sizes"),
    "float as a size": ({"a": entry(shape=[1.0])}, bytes(4), errors.BadTensorEntry, "list of sizes"),
    "shape is a number": ({"a": entry(shape=1)}, bytes(4), errors.BadTensorEntry, "list of sizes"),
    "a size beyond 63 bits": ({"a": entry(shape=[2**63])}, bytes(4), errors.BadTensorEntry, "list of sizes"),
    "sizes that overflow": ({"a": entry(shape=[2**62, 4])}, bytes(4), errors.ImpossibleShape, "no machine"),
    "overflow to zero": ({"a": entry(shape=[2**32, 2**32], offsets=[0, 0])}, b"", errors.ImpossibleShape, "no machine"),
    "hidden overflow": ({"a": entry(shape=[2**62, 4, 0], offsets=[0, 0])}, b"", errors.ImpossibleShape, "no machine"),
    "65 axes": ({"a": entry(shape=[1] * 65)}, bytes(4), errors.ImpossibleShape, "no machine"),
    "three offsets": ({"a": entry(offsets=[0, 2, 4])}, bytes(4), errors.BadTensorEntry, "[begin, end]"),
    "negative offset": ({"a": entry(offsets=[-4, 0])}, bytes(4), errors.BadTensorEntry, "[begin, end]"),
    "offsets backwards": ({"a": entry(offsets=[4, 0])}, bytes(4), errors.BadTensorEntry, "[begin, end]"),
    "shape too large": ({"a": entry(shape=[2], offsets=[0, 4])}, bytes(4), errors.ShapeSizeMismatch, "8 bytes"),
    "dtype too wide": ({"a": entry(dtype="F64")}, bytes(4), errors.ShapeSizeMismatch, "8 bytes, found 4"),
    "data ends early": ({"a": entry(shape=[2], offsets=[0, 8])}, bytes(4), errors.TruncatedFile, "Download"),
    "begins beyond the end": ({"a": entry(offsets=[2**62, 2**62 + 4])}, bytes(4), errors.TruncatedFile, "Download"),
    "overlap": ({"b": entry(), "a": entry(offsets=[2, 6])}, bytes(6), errors.OverlappingTensors, "b claims"),
    "the same bytes twice": ({"b": entry(), "a": entry()}, bytes(4), errors.OverlappingTensors, "bytes 0 to 4"),
    "empty inside another": (
        {"b": entry(), "a": entry(shape=[0], offsets=[2, 2])}, bytes(4), errors.OverlappingTensors, "bytes 2 to 2",
    ),
    "hole at the start": ({"a": entry(offsets=[4, 8])}, bytes(8), errors.UnclaimedBytes, "data at 0, found 4"),
    "hole in the middle": ({"b": entry(), "a": entry(offsets=[8, 12])}, bytes(12), errors.UnclaimedBytes, "data at 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENTRIES)
def test_a_tensor_entry_that_breaks_a_rule_is_its_own_error_and_named(case: str, make_file: MakeFile) -> None:
    header, data, error, words = ENTRIES[case]
    path = make_file(json.dumps(header), data)
    with pytest.raises(error) as caught:
        read_safetensors(path)
    assert type(caught.value) is error
    assert caught.value.file == str(path)
    # Of two tensors with the same bytes either may be the offender.
    assert caught.value.key in ({"a", "b"} if case == "the same bytes twice" else {"a"})
    assert words in str(caught.value)


def test_bytes_behind_the_last_tensor_are_an_error(make_file: MakeFile) -> None:
    with pytest.raises(errors.UnclaimedBytes, match="behind the last"):
        read_safetensors(make_file(json.dumps({"a": entry()}), bytes(5)))
    with pytest.raises(errors.UnclaimedBytes, match="behind the last"):
        read_safetensors(make_file("{}", b"\0"))


def test_hostile_text_is_cut_and_never_reaches_the_terminal_raw(make_file: MakeFile) -> None:
    path = make_file(json.dumps({"a\x1b[2J\n": entry(dtype="\x1b]0;" + "x" * 10_000)}), bytes(4))
    with pytest.raises(errors.UnknownDtype) as caught:
        read_safetensors(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    path = make_file(json.dumps({"a": entry(shape=[10**300] * 9)}), bytes(4))
    with pytest.raises(errors.BadTensorEntry) as caught_shape:
        read_safetensors(path)
    assert len(str(caught_shape.value)) < 1000


@pytest.mark.parametrize("item", ["[],", "{},", "12,", '"ab",'])
def test_a_header_that_would_fill_the_memory_is_refused_before_it_is_parsed(item: str, make_file: MakeFile) -> None:
    with pytest.raises(errors.HeaderTooLarge, match="more values"):
        read_safetensors(make_file('{"a":[' + item * 1_000_000 + "1]}"))


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingFile, match="no such file"):
        read_safetensors(tmp_path / "nothing")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "dangling")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(errors.FileAccessError, match="is a folder"):
        read_safetensors(tmp_path)


@posix_alone
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(errors.FileAccessError, match="not a regular file"):
        read_safetensors(tmp_path / "pipe")


@pytest.mark.skipif(IS_ROOT, reason="root may read everything")
def test_no_permission_is_an_access_error(make_file: MakeFile) -> None:
    path = make_file("{}")
    path.chmod(0)
    with pytest.raises(errors.FileAccessError, match="Permission denied"):
        read_safetensors(path)


def test_an_operating_system_that_refuses_is_an_access_error(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_file("{}")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(errors.FileAccessError, match="Permission denied"):
            read_safetensors(path)
    with monkeypatch.context() as patch:
        patch.setattr(header, "read_at", refuse)
        with pytest.raises(errors.FileAccessError, match="cannot be read"):
            read_safetensors(path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_file_can_have_is_an_access_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(errors.FileAccessError, match="cannot be opened"):
        read_safetensors(tmp_path / name)


def test_a_file_that_shrinks_while_it_is_read_is_truncated(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_file('{"__metadata__":{"pad":"' + "x" * 200_000 + '"}}')
    monkeypatch.setattr(header, "read_at", lambda fd, size, at: read_at(fd, size, at) if at == 0 else b"")
    with pytest.raises(errors.TruncatedFile, match="shrank"):
        read_safetensors(path)


def test_a_header_is_read_in_at_most_two_requests_and_no_data_with_it(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pad = "x" * 300_000
    path = make_file(
        json.dumps({"__metadata__": {"pad": pad}, "a": entry(shape=[250_000], offsets=[0, 1_000_000])}),
        bytes(1_000_000),
    )
    calls: list[tuple[int, int]] = []

    def counted(descriptor: int, size: int, at: int) -> bytes:
        calls.append((at, size))
        return read_at(descriptor, size, at)

    monkeypatch.setattr(header, "read_at", counted)
    file = read_safetensors(path)
    assert len(calls) == 2
    assert max(at + size for at, size in calls) == file.data_start


def test_a_7_gb_checkpoint_is_read_without_torch_and_numpy(tmp_path: Path) -> None:
    header: dict[str, object] = {}
    at = 0
    for index in range(2600):
        size = 7_000_000_000 // 2600 // 2 * 2
        header[f"model.diffusion_model.input_blocks.{index}.1.transformer_blocks.0.attn1.to_q.weight"] = entry(
            "F16", [size // 2], [at, at + size]
        )
        at += size
    raw = json.dumps(header).encode()
    path = tmp_path / "checkpoint.safetensors"
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(raw)) + raw)
        out.truncate(8 + len(raw) + at)
    file = read_safetensors(path)
    assert len(file.tensors) == 2600
    code = (
        "import sys; from si_hub.storage.header import read_safetensors as r; r(sys.argv[1]);"
        "print(*{'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_parsing_is_pure_so_that_a_ranged_download_can_use_it() -> None:
    raw = json.dumps({"a": entry()}).encode()
    file = parse_header(raw, 8 + len(raw) + 4, Path("elsewhere"))
    assert file.tensors["a"].pieces == (Span(Path("elsewhere"), 8 + len(raw), 4),)


def check_only_typed_errors(path: Path) -> None:
    """Whatever the bytes are: a checked file or one of our errors, and soon."""
    try:
        file = read_safetensors(path)
    except errors.SiHubError as error:
        message = str(error)
    else:
        message = ""
        assert sum(tensor.nbytes for tensor in file.tensors.values()) == file.size - file.data_start
    assert not message or message.isprintable()


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, len(GOLDEN) - 1),
    kept=st.integers(0, len(GOLDEN)),
    inserted=st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"[", b"9" * 400, b"\\ud800", b"NaN", b"-", b"1e9"]),
)
def test_no_mutation_of_the_golden_bytes_brings_another_exception(
    at: int, kept: int, inserted: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(GOLDEN[:at] + inserted + GOLDEN[kept:])
    check_only_typed_errors(path)


LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F32", "F16", "BOOL"])
)
SIZES = st.lists(st.integers(-1, 20) | st.sampled_from([2**31, 2**62, 2**63, 2**64]), max_size=4)
WILD_ENTRY = st.fixed_dictionaries(
    {},
    optional={"dtype": LEAF, "shape": SIZES | LEAF, "data_offsets": st.lists(st.integers(-1, 24), max_size=3) | LEAF},
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), WILD_ENTRY | LEAF, max_size=4),
    data=st.binary(max_size=24),
)
def test_no_json_header_brings_another_exception(header: dict[str, object], data: bytes, make_file: MakeFile) -> None:
    check_only_typed_errors(make_file(json.dumps(header), data))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64))
def test_no_bytes_bring_another_exception(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(content)
    check_only_typed_errors(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda n: n != "__metadata__"),
        st.tuples(st.sampled_from(["F64", "F16", "U8"]), st.lists(st.integers(0, 3), max_size=3)),
        max_size=5,
    )
)
def test_every_well_formed_table_is_read_as_it_is(table: dict[str, tuple[str, list[int]]], make_file: MakeFile) -> None:
    widths = {"F64": 8, "F16": 2, "U8": 1}
    header: dict[str, object] = {}
    at = 0
    for name, (dtype, shape) in table.items():
        size = widths[dtype]
        for n in shape:
            size *= n
        header[name] = entry(dtype, shape, [at, at + size])
        at += size
    file = read_safetensors(make_file(json.dumps(header), bytes(at)))
    assert {name: (t.dtype, list(t.shape)) for name, t in file.tensors.items()} == {
        name: (dtype, shape) for name, (dtype, shape) in table.items()
    }
