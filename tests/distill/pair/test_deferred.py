"""Tensors without values: whatever a converter does to them is done to the file's numbers when they are wanted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from si_hub.distill.pair.deferred import Deferred, defer, weights
from si_hub.distill.pair.weights import Weight
from si_hub.storage.tensors import Tensor

VALUES = {"a": torch.arange(24.0).reshape(4, 6), "b": torch.arange(100.0, 124.0).reshape(4, 6)}


def held(read: list[str] | None = None) -> dict[str, Deferred]:
    """Both tensors, which note that they are read."""

    def weight(name: str, value: torch.Tensor) -> Weight:
        def give() -> torch.Tensor:
            if read is not None:
                read.append(name)
            return value

        return Weight("F32", tuple(value.shape), (name,), give, Tensor.from_torch(value))

    return {name: defer(weight(name, value)) for name, value in VALUES.items()}


#: What diffusers' converters do, each on tables of tensors.
STEPS: dict[str, Callable[[dict[str, torch.Tensor]], torch.Tensor]] = {
    "transposed": lambda t: t["a"].T,
    "the second third": lambda t: torch.chunk(t["a"], 3, dim=1)[1],
    "split unevenly": lambda t: torch.split(t["a"], [1, 3], dim=0)[1],
    "swapped halves": lambda t: torch.cat(tuple(reversed(t["a"].chunk(2, dim=0)))),
    "both joined": lambda t: torch.cat([t["a"], t["b"]], dim=0),
    "unsqueezed and expanded": lambda t: t["a"][:, :, None, None].expand(4, 6, 1, 2),
    "a slice of a reshape": lambda t: t["b"].reshape(8, 3)[2:5],
    "a sum of products": lambda t: t["a"] @ t["b"].T + 2,
    "put in order and viewed": lambda t: t["a"].permute(1, 0).contiguous().view(3, 8),
    "in another dtype": lambda t: t["a"].to(torch.float16),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_is_done_to_them_is_done_to_the_values(name: str) -> None:
    read: list[str] = []
    found = STEPS[name](dict(held(read)))
    assert isinstance(found, Deferred)
    assert read == [], "nothing was read to find the shape"
    expected = STEPS[name](VALUES)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert torch.equal(found.replay(), expected)
    assert set(found.sources) == set(read)


def test_what_leaves_the_values_as_they_are_leaves_the_bytes_where_they_lie() -> None:
    a = held()["a"]
    for same in (a.clone(), a.detach(), a.contiguous(), torch.cat([a])):
        assert isinstance(same, Deferred)
        assert same.stored is a.stored
    moved = a.T
    assert isinstance(moved, Deferred)
    assert moved.stored is None


def test_writing_into_one_is_refused() -> None:
    a = held()["a"]
    with pytest.raises(NotImplementedError, match="changes a tensor that is not read yet"):
        a[0] = 1.0
    with pytest.raises(NotImplementedError, match="add_"):
        a.add_(1.0)


def test_a_question_whose_answer_is_a_number_reads_the_values() -> None:
    read: list[str] = []
    a = held(read)["a"]
    assert a[1, 2].item() == 8.0
    assert bool(a[0].sum() == 15.0)
    assert read


def test_what_a_converter_made_up_itself_is_no_weight() -> None:
    found = weights({"kept": held()["b"].T, "new": torch.zeros(3)})
    assert found.keys() == {"kept"}
    assert (found["kept"].dtype, found["kept"].shape, found["kept"].sources) == ("F32", (6, 4), ("b",))
    assert torch.equal(found["kept"].torch(), VALUES["b"].T)
