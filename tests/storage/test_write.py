from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from si_hub import errors
from si_hub.storage.header import read_safetensors
from si_hub.storage.tensors import CHUNK, Held, Span, Tensor
from si_hub.storage.write import Digests, header_bytes, write_safetensors
from tests.killing import Command, python, sweep
from tests.systems import posix_alone

GOLDEN = (
    b"\xa0\x00\x00\x00\x00\x00\x00\x00"
    b'{"__metadata__":{"z":"first","a":"\xc3\xa9"},'
    b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    b'"a":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]}}'
)


def tensor(*values: float, dtype: str = "<f4") -> Tensor:
    return Tensor.from_numpy(numpy.array(values, dtype))


def test_the_bytes_are_the_golden_bytes(tmp_path: Path) -> None:
    tensors = {"a": tensor(1, -2, dtype="<f2").reshape(2, 1), "b": tensor(1)}
    write_safetensors(tmp_path / "x", tensors, {"a": "é", "z": "first"}, lead=("z", "absent"))
    content = (tmp_path / "x").read_bytes()
    header = GOLDEN[8:] + b" " * (-len(GOLDEN) % 8)
    assert content == struct.pack("<Q", len(header)) + header + b"\0\0\x80\x3f" + b"\0\x3c\0\xc0"


def test_wide_elements_come_first_then_names_whatever_the_order_given(tmp_path: Path) -> None:
    tensors = {"b": tensor(1, dtype="<f2"), "c": tensor(1, dtype="<f8"), "a": tensor(1, dtype="<f2"), "d": tensor(1)}
    write_safetensors(tmp_path / "x", tensors, {"q": "1", "p": "2"})
    write_safetensors(tmp_path / "y", dict(reversed(tensors.items())), {"p": "2", "q": "1"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert list(read_safetensors(tmp_path / "x").tensors) == ["c", "d", "a", "b"]
    assert list(read_safetensors(tmp_path / "x").metadata) == ["p", "q"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(["<f8", "<f4", "<f2", "|u1", "<i8"]), st.lists(st.integers(0, 4), max_size=3)),
        max_size=5,
    ),
    metadata=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.text(st.characters(codec="utf-8"))),
)
def test_the_safetensors_library_reads_what_was_written(
    table: dict[str, tuple[str, list[int]]], metadata: dict[str, str], tmp_path: Path
) -> None:
    arrays = {name: numpy.ones(shape, dtype) * 3 for name, (dtype, shape) in table.items()}
    arrays = {name: array.astype(table[name][0]) for name, array in arrays.items()}
    path = tmp_path / "x"
    stored = write_safetensors(path, {n: Tensor.from_numpy(a) for n, a in arrays.items()}, metadata, overwrite=True)
    loaded = load_file(path)
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        numpy.testing.assert_array_equal(loaded[name], array)
    with safe_open(path, "numpy") as opened:
        assert (opened.metadata() or {}) == metadata
    file = read_safetensors(path)
    assert file.metadata == metadata
    assert file.header_size % 8 == 0
    content = path.read_bytes()
    assert stored.size == len(content)
    assert stored.digests.tensors == hashlib.sha256(content[file.data_start :]).hexdigest()


def test_what_the_library_wrote_is_copied_bit_by_bit(tmp_path: Path) -> None:
    rng = numpy.random.default_rng(0)
    arrays = {f"m{i}": rng.standard_normal((i, 700)).astype("<f2" if i % 2 else "<f4") for i in range(1, 900, 100)}
    save_file(arrays, tmp_path / "source")
    source = read_safetensors(tmp_path / "source")
    write_safetensors(tmp_path / "copy", source.tensors, {})
    for name, array in load_file(tmp_path / "copy").items():
        numpy.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 3])
def test_data_of_any_length_crosses_the_buffers_unharmed(size: int, tmp_path: Path) -> None:
    content = numpy.random.default_rng(size).bytes(size)
    (tmp_path / "source").write_bytes(b"xyz" + content)
    cut = size // 3
    pieces = (Span(tmp_path / "source", 3, cut), Held(content[cut : 2 * cut]),
              Span(tmp_path / "source", 3 + 2 * cut, size - 2 * cut))  # fmt: skip
    tensors = {"a": Tensor("U8", (size,), pieces), "b": Tensor.from_bytes("F64", (1,), struct.pack("<d", 2.5))}
    stored = write_safetensors(tmp_path / "x", tensors, {})
    file = read_safetensors(tmp_path / "x")
    assert file.tensors["a"].tobytes() == content
    assert file.tensors["b"].item() == 2.5
    assert stored.digests.tensors == hashlib.sha256(struct.pack("<d", 2.5) + content).hexdigest()


def test_digests_stand_in_the_metadata(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"abc" * 3_000_000)
    stored = write_safetensors(
        tmp_path / "x", {"a": tensor(1, 2)}, lambda d: {"t": d.tensors, "s": d.source or ""},
        hash_source=tmp_path / "source",
    )  # fmt: skip
    assert stored.digests == Digests(
        hashlib.sha256(struct.pack("<2f", 1, 2)).hexdigest(), hashlib.sha256(b"abc" * 3_000_000).hexdigest()
    )
    assert read_safetensors(tmp_path / "x").metadata == {"s": stored.digests.source, "t": stored.digests.tensors}


def test_metadata_whose_length_depends_on_the_digests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="length"):
        write_safetensors(tmp_path / "x", {"a": tensor(1)}, lambda d: {"t": d.tensors.lstrip("0")})
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_cannot_take_the_metadatas_name() -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        header_bytes({"__metadata__": tensor(1)}, {})


def test_a_header_that_no_reader_takes_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"steps": 10}
    with pytest.raises(errors.BadMetadata, match="steps"):
        write_safetensors(tmp_path / "x", {"a": tensor(1)}, wrong)
    with pytest.raises(errors.NotUtf8, match="surrogate"):
        write_safetensors(tmp_path / "x", {"a": tensor(1)}, {"k": "\ud800"})
    with pytest.raises(errors.NotUtf8, match="surrogate"):
        write_safetensors(tmp_path / "x", {"\udc00": tensor(1)}, {})
    with pytest.raises(errors.HeaderTooLarge, match="33554432"):
        write_safetensors(tmp_path / "x", {"a": tensor(1)}, {"k": "x" * 100_000_001})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, CHUNK // 2 - 1, CHUNK // 2, CHUNK // 2 + 1, 3_999_999])
def test_a_bad_number_anywhere_is_named_counted_and_nothing_is_written(place: int, tmp_path: Path) -> None:
    array = numpy.zeros(4_000_000, "<f2")
    array[place] = numpy.nan
    array[7] = numpy.inf
    (tmp_path / "source").write_bytes(array.tobytes())
    tensors = {"good": tensor(1), "bad.weight": Tensor("F16", (4_000_000,), (Span(tmp_path / "source", 0, 8_000_000),))}
    with pytest.raises(errors.NotFinite, match="2 of 4000000 numbers") as caught:
        write_safetensors(tmp_path / "x", tensors, {})
    assert (caught.value.key, caught.value.file) == ("bad.weight", str(tmp_path / "source"))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    write_safetensors(tmp_path / "x", tensors, {}, check_finite=False)
    numpy.testing.assert_array_equal(read_safetensors(tmp_path / "x").tensors["bad.weight"].numpy(), array)


def test_a_computed_tensor_that_is_not_finite_names_the_output(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFinite, match="1 of 2") as caught:
        write_safetensors(tmp_path / "x", {"a": tensor(1, float("nan"))}, {})
    assert caught.value.file == str(tmp_path / "x")


def test_progress_ends_with_everything(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    size = 3 * CHUNK + 5
    write_safetensors(
        tmp_path / "x", {"a": Tensor.from_bytes("U8", (size,), bytes(size))}, {}, progress=lambda *p: seen.append(p)
    )
    assert seen == [(CHUNK, size), (2 * CHUNK, size), (3 * CHUNK, size), (size, size)]


def test_ctrl_c_in_the_middle_leaves_nothing_and_no_thread(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "source").write_bytes(bytes(10 * CHUNK))
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(
            tmp_path / "x", {"a": Tensor("U8", (10 * CHUNK,), (Span(tmp_path / "source", 0, 10 * CHUNK),))}, {},
            hash_source=tmp_path / "source", progress=interrupt,
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    assert threading.active_count() == before


def test_a_source_that_ends_early_is_truncated_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(9))
    broken = Tensor("U8", (12,), (Span(tmp_path / "source", 0, 12),))
    with pytest.raises(errors.TruncatedFile, match="source"):
        write_safetensors(tmp_path / "x", {"a": broken}, {})
    gone = Tensor("U8", (12,), (Span(tmp_path / "gone", 0, 12),))
    with pytest.raises(errors.MissingFile, match="gone"):
        write_safetensors(tmp_path / "x", {"a": gone}, {})
    with pytest.raises(errors.MissingFile, match="gone"):
        write_safetensors(tmp_path / "x", {"a": tensor(1)}, {}, hash_source=tmp_path / "gone")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@posix_alone
@pytest.mark.parametrize("call", ["pwrite", "posix_fallocate"])
def test_a_full_disk_is_an_access_error_and_leaves_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(errors.FileAccessError, match="No space left"):
        write_safetensors(tmp_path / "x", {"a": Tensor.from_bytes("U8", (9 * CHUNK,), bytes(9 * CHUNK))}, {})
    assert list(tmp_path.iterdir()) == []


@posix_alone
def test_a_system_that_writes_little_at_a_time_and_cannot_reserve_still_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, preadv = os.pwrite, os.preadv

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1000], at))
    monkeypatch.setattr(os, "preadv", lambda fd, rooms, at: preadv(fd, [rooms[0][:777]], at))
    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    content = numpy.random.default_rng(0).bytes(100_001)
    (tmp_path / "source").write_bytes(content)
    write_safetensors(tmp_path / "x", {"a": Tensor("U8", (100_001,), (Span(tmp_path / "source", 0, 100_001),))}, {})
    assert read_safetensors(tmp_path / "x").tensors["a"].tobytes() == content


def test_memory_stays_small_however_large_the_file(tmp_path: Path) -> None:
    size = 600 << 20
    with (tmp_path / "source").open("wb") as file:
        file.truncate(size)
    code = f"""
        from pathlib import Path
        from si_hub.storage.tensors import Span, Tensor
        from si_hub.storage.write import write_safetensors
        source = Path({str(tmp_path / "source")!r})
        tensors = {{
            f"t{{i}}": Tensor("F16", ({size // 20},), (Span(source, i * {size // 10}, {size // 10}),))
            for i in range(10)
        }}
        write_safetensors({str(tmp_path / "x")!r}, tensors, {{}}, hash_source=source)
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 << 10, "peak resident set in KiB"


WRITER = """
import sys
from si_hub.storage.tensors import Span, Tensor
from si_hub.storage.write import write_safetensors
from pathlib import Path
source, target = map(Path, sys.argv[1:])
size = source.stat().st_size
print("ready", flush=True)
sys.stdin.readline()
write_safetensors(target, {"a": Tensor("F16", (size // 2,), (Span(source, 0, size),))}, lambda d: {"h": d.tensors})
print("done", flush=True)
"""


@pytest.mark.slow
def test_killing_the_writer_fifty_times_leaves_no_file_or_a_whole_one(tmp_path: Path) -> None:
    size = 24 << 20
    source, target = tmp_path / "source", tmp_path / "out" / "x.safetensors"
    target.parent.mkdir()
    source.write_bytes(numpy.random.default_rng(0).integers(0, 20_000, size // 2).astype("<u2").tobytes())

    def start() -> Command:
        process = python("-c", WRITER, source, target)
        assert process.read_line() == "ready\n"
        return process

    whole_run = start()
    begin = time.perf_counter()
    whole_run.tell()
    assert whole_run.wait() == 0
    duration = time.perf_counter() - begin
    whole = target.read_bytes()
    assert read_safetensors(target).metadata == {"h": hashlib.sha256(source.read_bytes()).hexdigest()}
    left = complete = 0
    for index in range(50):
        target.unlink(missing_ok=True)
        process = start()
        process.tell()
        process.end(duration * index / 45)
        if target.exists():
            complete += 1
            assert target.read_bytes() == whole
        left += sweep(target.parent, target)
    assert left, "no kill came in the middle: the test proves nothing"
    assert complete < 50


def test_data_are_in_the_librarys_order_where_that_is_wanted(tmp_path: Path) -> None:
    """Its own writer says which that is, for several dtypes of one size."""
    import torch
    from safetensors.torch import save

    kinds = [torch.int64, torch.float64, torch.int32, torch.float32, torch.float16, torch.bfloat16, torch.int16,
             torch.uint8, torch.int8, torch.bool]  # fmt: skip
    state = {f"{name}{at}": torch.ones(at + 1, dtype=kind) for name in "ba" for at, kind in enumerate(kinds)}
    tensors = {name: Tensor.from_torch(values) for name, values in state.items()}
    path = write_safetensors(tmp_path / "a.safetensors", tensors, {}, as_library=True).path
    raws = [save(state), path.read_bytes()]
    expected, found = (raw[8 + int.from_bytes(raw[:8], "little") :] for raw in raws)
    assert found == expected
