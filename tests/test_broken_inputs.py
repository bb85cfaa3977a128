"""Every broken input ends in one line that names the file and what is wrong in it, its exit code, and no output."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from si_hub.cli import main
from tests.systems import IS_ROOT, posix_alone

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CROSS = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOWN, UP, ALPHA = f"{ATTENTION}.lora_down.weight", f"{ATTENTION}.lora_up.weight", f"{ATTENTION}.alpha"

FORMAT, REFUSED, MISMATCH, MISSING, ACCESS = 3, 4, 5, 7, 8

Arrays = dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]
Header = dict[str, object]


def good() -> Arrays:
    """A LoRA of rank 2 on two attention projections of Stable Diffusion 1.5."""
    ones = np.ones
    return {
        DOWN: ones((2, 320), "<f2"), UP: ones((320, 2), "<f2"), ALPHA: np.array(2, "<f2"),
        f"{CROSS}.lora_down.weight": ones((2, 768), "<f2"), f"{CROSS}.lora_up.weight": ones((320, 2), "<f2"),
    }  # fmt: skip


def pack(arrays: Arrays) -> tuple[Header, bytes]:
    """Header and data section of a safetensors file, written by hand."""
    names = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32"}
    header: Header = {}
    data = b""
    for name, array in arrays.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return header, data


def join(header: Header | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def with_entry(**changes: object) -> bytes:
    """The good file with some fields of the first tensor's header entry replaced (or removed, by None)."""
    header, data = pack(good())
    entry = {**header[DOWN], **changes}  # type: ignore[dict-item]
    header[DOWN] = {key: value for key, value in entry.items() if value is not None}
    return join(header, data)


def with_arrays(**changes: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None) -> bytes:
    """The good file with tensors replaced, added, or removed (None); ``__`` in a keyword stands for a dot."""
    arrays: Arrays = good()
    for key, array in changes.items():
        name = key.replace("__", ".")
        arrays.pop(name, None)
        if array is not None:
            arrays[name] = array
    return join(*pack(arrays))


def only(*names: str) -> bytes:
    """A file of small float16 matrices under these names."""
    return join(*pack({name: np.ones((4, 4), "<f2") for name in names}))


def with_nan() -> bytes:
    arrays = good()
    arrays[UP][3, 1] = np.nan
    return join(*pack(arrays))


def duplicate_key() -> bytes:
    header, data = pack(good())
    entry = json.dumps(header[DOWN])
    return join(f'{{"{DOWN}":{entry},"{DOWN}":{entry}}}'.encode(), data)


def a_pickle() -> bytes:
    return pickle.dumps({"state_dict": [1, 2, 3]})


def checkpoint() -> bytes:
    return only(
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.middle_block.0.in_layers.0.weight",
        "first_stage_model.encoder.conv_in.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
    )


@dataclass(frozen=True)
class Broken:
    """Contents of the file, the exit code, and what the error line must say."""

    build: Callable[[], bytes]
    code: int
    says: tuple[str, ...]


HEADER, DATA = pack(good())

BROKEN: dict[str, Broken] = {
    "empty": Broken(lambda: b"", FORMAT, ("empty",)),
    "three bytes": Broken(lambda: b"abc", FORMAT, ("short",)),
    "header size of 2**63": Broken(lambda: b"\xff" * 7 + b"\x7f{}", FORMAT, ("header",)),
    "header size beyond the file": Broken(lambda: join(b"{}", length=5000), FORMAT, ("header",)),
    "header size zero": Broken(lambda: join(b""), FORMAT, ("short",)),
    "text": Broken(lambda: b"this is not a tensor file at all, sorry", FORMAT, ("header",)),
    "pickle under a safetensors name": Broken(a_pickle, FORMAT, ("pickle",)),
    "git lfs pointer": Broken(lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", FORMAT, ("LFS",)),
    "html page": Broken(lambda: b"<!DOCTYPE html><html>login</html>", FORMAT, ("HTML",)),
    "gguf": Broken(lambda: b"GGUF\x03\0\0\0" + b"\0" * 64, FORMAT, ("GGUF",)),
    "not utf-8": Broken(lambda: join(b'{"\xff\xfe": 1}'), FORMAT, ("UTF-8",)),
    "not json": Broken(lambda: join(b'{"a": '), FORMAT, ("JSON",)),
    "json list": Broken(lambda: join(b"[1, 2]"), FORMAT, ("header",)),
    "json too deep": Broken(lambda: join(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), FORMAT, ("deep",)),
    "NaN in json": Broken(lambda: join(b'{"a": NaN}'), FORMAT, ("NaN",)),
    "duplicate key": Broken(duplicate_key, FORMAT, (DOWN, "twice")),
    "metadata not text": Broken(lambda: join({"__metadata__": {"rank": 4}}), FORMAT, ("rank",)),
    "truncated data": Broken(lambda: join(HEADER, DATA[:-7]), FORMAT, ("ends",)),
    "bytes behind the data": Broken(lambda: join(HEADER, DATA + b"\0" * 9), FORMAT, ("behind",)),
    "no shape": Broken(lambda: with_entry(shape=None), FORMAT, (DOWN, "shape")),
    "no offsets": Broken(lambda: with_entry(data_offsets=None), FORMAT, (DOWN, "data_offsets")),
    "unknown dtype": Broken(lambda: with_entry(dtype="F12"), FORMAT, (DOWN, "F12")),
    "dtype of another size": Broken(lambda: with_entry(dtype="F32"), FORMAT, (DOWN, "bytes")),
    "negative shape": Broken(lambda: with_entry(shape=[-2, 320]), FORMAT, (DOWN, "shape")),
    "shape beyond memory": Broken(lambda: with_entry(shape=[2**40, 2**40]), FORMAT, (DOWN,)),
    "overlapping ranges": Broken(lambda: with_entry(data_offsets=[640, 1920]), FORMAT, (DOWN,)),
    "offsets backwards": Broken(lambda: with_entry(data_offsets=[1280, 0]), FORMAT, (DOWN, "data_offsets")),
    "no tensor at all": Broken(lambda: join({}), FORMAT, ("no ",)),
    "NaN in a weight": Broken(with_nan, FORMAT, (UP, "NaN")),
    "integers for weights": Broken(
        lambda: with_arrays(**{DOWN.replace(".", "__"): np.ones((2, 320), "<i4")}), FORMAT, (DOWN,)
    ),
    "NaN alpha": Broken(
        lambda: with_arrays(**{ALPHA.replace(".", "__"): np.array(np.nan, "<f4")}), FORMAT, (ALPHA,)
    ),
    "alpha of two numbers": Broken(
        lambda: with_arrays(**{ALPHA.replace(".", "__"): np.ones(2, "<f4")}), FORMAT, (ALPHA,)
    ),
    "rank mismatch up and down": Broken(
        lambda: with_arrays(**{UP.replace(".", "__"): np.ones((320, 3), "<f2")}), FORMAT, (UP,)
    ),
    "up without down": Broken(lambda: with_arrays(**{DOWN.replace(".", "__"): None}), FORMAT, (ATTENTION, "down")),
    "width of another base": Broken(
        lambda: with_arrays(**{DOWN.replace(".", "__"): np.ones((2, 333), "<f2")}), MISMATCH, (DOWN, "320", "333")
    ),
    "a module no base has": Broken(
        lambda: with_arrays(
            lora_unet_down_blocks_9_attn__lora_down__weight=np.ones((2, 8), "<f2"),
            lora_unet_down_blocks_9_attn__lora_up__weight=np.ones((8, 2), "<f2"),
        ),
        MISMATCH, ("lora_unet_down_blocks_9_attn",),
    ),
    "nothing a converter knows": Broken(
        lambda: only("encoder.strange", "decoder.strange"), FORMAT, ("encoder.strange",),
    ),
    "a full checkpoint": Broken(checkpoint, REFUSED, ("checkpoint",)),
    "a ControlNet": Broken(
        lambda: only("control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"),
        REFUSED, ("ControlNet",),
    ),
    "a ControlNet in diffusers names": Broken(
        lambda: only("controlnet_cond_embedding.conv_in.weight", "controlnet_down_blocks.0.weight"),
        REFUSED, ("ControlNet",),
    ),
    "a ControlNet-LLLite": Broken(
        lambda: only("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.depth1.weight"),
        REFUSED, ("LLLite",),
    ),
    "an IP-Adapter": Broken(
        lambda: only("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), REFUSED, ("IP-Adapter",)
    ),
    "a VAE": Broken(lambda: only("encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight"),
                    REFUSED, ("VAE",)),
    "a textual inversion alone": Broken(lambda: only("emb_params"), REFUSED, ("textual inversion",)),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("command", ["convert", "convert --json"])
def test_a_broken_file_gets_one_line_and_writes_nothing(name: str, command: str, tmp_path: Path) -> None:
    case = BROKEN[name]
    file = tmp_path / "lora.safetensors"
    file.write_bytes(case.build())
    result = CliRunner().invoke(main, [*command.split(), str(file)])
    assert result.exit_code == case.code, result.output
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"si-hub: {file}: ")
    for words in case.says:
        assert words in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["lora.safetensors"]
    if "--json" in command:
        report = json.loads(result.stdout)
        assert report["exit_code"] == case.code
        assert report["file"] == str(file)


def test_a_name_of_a_hundred_thousand_letters_is_told_short_and_reported_whole(tmp_path: Path) -> None:
    name = f"{'x' * 50_000}.odd"
    (tmp_path / "a.safetensors").write_bytes(only(name))
    result = CliRunner().invoke(main, ["convert", "--json", str(tmp_path / "a.safetensors")])
    assert result.exit_code == FORMAT
    assert len(result.stderr) < 2000
    assert "x.odd" in result.stderr
    assert json.loads(result.stdout)["key"] == name


def refused(arguments: list[str]) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    [line] = result.stderr.strip().splitlines()
    return result.exit_code, line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    code, line = refused(["convert", str(tmp_path / "gone.safetensors")])
    assert code == MISSING
    assert "gone.safetensors" in line


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    code, line = refused(["convert", str(tmp_path)])
    assert code in (MISSING, FORMAT)
    assert str(tmp_path) in line


@pytest.fixture
def nobody() -> Iterator[None]:
    """Without root's right to read everything, for the length of one test."""
    if not IS_ROOT:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@posix_alone
def test_a_file_without_permission_is_named(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = tmp_path / "lora.safetensors"
    file.write_bytes(join(HEADER, DATA))
    assert refused(["convert", str(file), "--base", "flux"])[0] == MISMATCH
    file.chmod(0)
    request.getfixturevalue("nobody")
    code, line = refused(["convert", str(file)])
    assert code == ACCESS
    assert str(file) in line


@posix_alone
def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "lora.safetensors"
    os.mkfifo(pipe)
    code, line = refused(["convert", str(pipe)])
    assert code == ACCESS
    assert str(pipe) in line


def test_an_existing_output_is_kept_unless_forced(tmp_path: Path) -> None:
    source, output = tmp_path / "lora.safetensors", tmp_path / "out.safetensors"
    source.write_bytes(join(HEADER, DATA))
    output.write_text("mine", encoding="utf-8")
    code, line = refused(["convert", str(source), "-o", str(output)])
    assert code == ACCESS
    assert str(output) in line
    assert "--force" in line
    assert output.read_text(encoding="utf-8") == "mine"
    done = CliRunner().invoke(main, ["convert", str(source), "-o", str(output), "--force"])
    assert done.exit_code == 0, done.stderr
    assert output.stat().st_size > 4


def test_an_output_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = tmp_path / "lora.safetensors"
    source.write_bytes(join(HEADER, DATA))
    code, line = refused(["convert", str(source), "-o", str(tmp_path / "no" / "out.safetensors")])
    assert code == MISSING
    assert str(tmp_path / "no") in line


def test_the_source_is_never_its_own_output(tmp_path: Path) -> None:
    source = tmp_path / "lora.safetensors"
    source.write_bytes(join(HEADER, DATA))
    before = source.read_bytes()
    code, line = refused(["convert", str(source), "-o", str(source), "--force"])
    assert code == ACCESS
    assert str(source) in line
    assert source.read_bytes() == before


def test_an_unknown_base_lists_the_known_ones(tmp_path: Path) -> None:
    source = tmp_path / "lora.safetensors"
    source.write_bytes(join(HEADER, DATA))
    code, line = refused(["convert", str(source), "--base", "sd99"])
    assert code in (2, MISSING)
    assert "sd15" in line


def test_a_pytorch_pickle_is_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    file = tmp_path / "lora.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(), protocol=2))
        archive.writestr("archive/version", "3\n")
    code, line = refused(["convert", str(file)])
    assert code == REFUSED
    assert str(file) in line
    assert "pickle" in line
    assert not (tmp_path / "executed").exists()
