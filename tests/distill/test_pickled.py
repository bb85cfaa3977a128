"""PyTorch files read before torch is: the values of torch's own loader, or nothing at all."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si_hub.distill.pickled import read_tensors
from si_hub.errors import TruncatedFile
from si_hub.storage.tensors import Tensor

NUMBERS = torch.arange(24.0).reshape(2, 3, 4)
PLAIN: dict[str, Any] = {
    "f32": NUMBERS, "f16": NUMBERS.half(), "bf16": NUMBERS.bfloat16(), "f64": NUMBERS.double(), "i64": NUMBERS.long(),
    "i8": NUMBERS.to(torch.int8), "u8": NUMBERS.byte(), "bool": NUMBERS > 3, "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3), "rows of another": NUMBERS[1:], "learned": torch.nn.Parameter(NUMBERS),
}  # fmt: skip
#: What only torch may know.
STRANGE: dict[str, Any] = {
    "columns": NUMBERS[:, :, 1], "transposed": NUMBERS.transpose(0, 2), "expanded": torch.ones(1).expand(3),
    "float8": NUMBERS.to(torch.float8_e4m3fn), "code": Path, "sparse": NUMBERS[0].to_sparse(),
}  # fmt: skip


def test_the_values_are_those_of_torchs_loader(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "notes": ["a", None], "state_dict": OrderedDict(PLAIN)}, tmp_path / "plain.ckpt")
    loaded = torch.load(tmp_path / "plain.ckpt", weights_only=True)["state_dict"]
    held = read_tensors(tmp_path / "plain.ckpt")
    assert held is not None
    assert (held["epoch"], held["notes"], list(held["state_dict"])) == (3, ["a", None], list(PLAIN))
    for name, tensor in held["state_dict"].items():
        assert isinstance(tensor, Tensor)
        assert tensor.torch().dtype == loaded[name].dtype
        assert torch.equal(tensor.torch(), loaded[name])


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_not_plain_is_left_to_torch(what: str, tmp_path: Path) -> None:
    torch.save({"plain": NUMBERS, what: STRANGE[what]}, tmp_path / "strange.ckpt")
    assert read_tensors(tmp_path / "strange.ckpt") is None


def test_other_containers_are_left_to_torch(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert read_tensors(tmp_path / "old.ckpt") is None
    torch.save(PLAIN, tmp_path / "new.ckpt")
    with zipfile.ZipFile(tmp_path / "new.ckpt") as old, zipfile.ZipFile(tmp_path / "small.ckpt", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert read_tensors(tmp_path / "small.ckpt") is None, "compressed"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("model/notes.txt", "no index")
    assert read_tensors(tmp_path / "other.zip") is None
    torch.save(NUMBERS, tmp_path / "one.pt")
    assert read_tensors(tmp_path / "one.pt") is None, "a tensor alone has no name"


def test_no_code_runs_and_torch_is_not_imported(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (Path(tmp_path / "sprung"),)  # type: ignore[return-value]

    torch.save({"weight": NUMBERS, "trap": Trap()}, tmp_path / "trap.ckpt")
    assert read_tensors(tmp_path / "trap.ckpt") is None
    assert not (tmp_path / "sprung").exists()
    torch.save(PLAIN, tmp_path / "plain.ckpt")
    code = (
        "import sys; from pathlib import Path; from si_hub.distill.pickled import read_tensors; "
        "print(len(read_tensors(Path(sys.argv[1]))), *{'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "plain.ckpt")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == str(len(PLAIN))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_torchs_or_truncated_and_never_something_else(data: st.DataObject, tmp_path: Path) -> None:
    file = tmp_path / "damaged.ckpt"
    torch.save({"weight": NUMBERS}, file)
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(2, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(raw[: data.draw(st.sampled_from([len(raw), len(raw) - 1, len(raw) // 2]))])
    try:
        held = read_tensors(file)
    except TruncatedFile:
        return
    for tensor in (held or {}).values():
        assert not isinstance(tensor, Tensor) or len(tensor.tobytes()) == tensor.nbytes


def test_a_file_cut_off_says_so(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "short.ckpt")
    whole = (tmp_path / "short.ckpt").read_bytes()
    (tmp_path / "short.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TruncatedFile, match="end is missing"):
        read_tensors(tmp_path / "short.ckpt")
