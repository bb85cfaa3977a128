"""PyTorch's own files: where their tensors lie, without reading any, and the same numbers as torch reads there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from si_hub.errors import FormatError, TruncatedFile
from si_hub.storage import pickles
from si_hub.storage.pickles import find_bytes, load_pickle, load_unread
from si_hub.storage.tensors import file_state

WHOLE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
#: What a checkpoint may hold → how many numbers lie between its first and its last.
HELD = {
    "whole": (WHOLE, 24),
    "bfloat16": (torch.full((3, 5), 1.5, dtype=torch.bfloat16), 15),
    "float8": (torch.ones(4).to(torch.float8_e4m3fn), 4),
    "a parameter": (torch.nn.Parameter(torch.ones(7)), 7),
    "turned": (WHOLE.t(), 24),
    "rows": (WHOLE[1:3], 12),
    "columns": (WHOLE[:, 2:4], 20),
    "one number again and again": (torch.tensor([2.5]).expand(1 << 40), 1),
    "a number": (torch.tensor(3), 1),
    "nothing": (torch.empty(0, 3), 0),
}


@pytest.mark.parametrize("held", HELD)
def test_stand_ins_say_where_their_numbers_are(held: str, tmp_path: Path) -> None:
    value, count = HELD[held]
    torch.save({"first": torch.ones(3), "it": value, "note": "kept"}, tmp_path / "a.pt")
    read = load_unread(tmp_path / "a.pt", FormatError)
    assert read["note"] == "kept"
    stand_in = read["it"]
    assert (stand_in.shape, stand_in.dtype, stand_in.stride()) == (value.shape, value.dtype, value.stride())
    flat = find_bytes(stand_in, tmp_path / "a.pt", file_state(tmp_path / "a.pt"))
    assert flat is not None
    assert flat.shape == (count,)
    given = flat.torch().as_strided(stand_in.shape, stand_in.stride())
    if held == "one number again and again":
        assert given[-1] == 2.5
    else:
        assert torch.equal(given.float(), value.float())


def test_a_tensor_that_the_file_has_no_numbers_for_is_refused_before_room_is_made_for_it(tmp_path: Path) -> None:
    storage = torch.UntypedStorage(1 << 40, device="meta")  # type: ignore[no-untyped-call]
    value = torch.empty(0, device="meta").set_(storage, 0, (1 << 38,), (1,))
    storage._checkpoint_offset = 64
    torch.save({"it": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(TruncatedFile, match="ends before a tensor's numbers"):
        find_bytes(value, tmp_path / "a.pt", file_state(tmp_path / "a.pt"))


def test_code_is_refused_unread_too(tmp_path: Path) -> None:
    torch.save({"it": torch.ones(3), "run": Path}, tmp_path / "a.pt")
    for load in (load_pickle, load_unread):
        with pytest.raises(FormatError, match="a pickle of more than tensors"):
            load(tmp_path / "a.pt", FormatError)


def test_a_torch_that_does_not_say_where_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_OFFSET", "_not_said")
    torch.save({"it": torch.ones(3)}, tmp_path / "a.pt")
    stand_in = load_unread(tmp_path / "a.pt", FormatError)["it"]
    assert find_bytes(stand_in, tmp_path / "a.pt", file_state(tmp_path / "a.pt")) is None
