"""Three megabytes that become gigabytes once hotswapping pads them: many branches, wide layers, rank one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from si_hub.adapter import Component, Layer
from si_hub.errors import UsageError
from si_hub.pipelines import padding
from si_hub.storage.tensors import Span, Tensor


def stored(*shape: int) -> Tensor:
    """A tensor of a file that is never read."""
    count = 2
    for size in shape:
        count *= size
    return Tensor("F16", shape, (Span(Path("never-read.safetensors"), 0, count),))


@pytest.mark.parametrize(
    ("layers", "branches", "width"), [(1, 800, 1000), (800, 1, 1000), (3, 1, 300_000)], ids=["branches", "many", "wide"]
)
def test_a_small_file_is_refused_before_it_is_padded(layers: int, branches: int, width: int) -> None:
    pair = {"down.weight": stored(branches, width), "up.weight": stored(width, 1)}
    content = Component(layers={f"l{index}": Layer(pair) for index in range(layers)})
    model = nn.Linear(4, 4)
    model.__dict__[padding._RANK] = 128
    with pytest.raises(UsageError, match="padded to rank 128 the adapter has more numbers than the model"):
        padding.pad(model, content, "unet")


def test_as_much_as_the_model_has_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "ALWAYS_PADDED", 0)
    pair = {"down.weight": torch.ones(1, 16), "up.weight": torch.ones(16, 1)}
    content = Component(layers={"fc": Layer({leaf: Tensor.from_torch(tensor) for leaf, tensor in pair.items()})})
    for rank, fits in ((8, True), (9, False)):  # 256 numbers and no bias
        model = nn.Linear(16, 16, bias=False)
        model.__dict__[padding._RANK] = rank
        if fits:
            assert padding.pad(model, content).layers["fc"].rank == rank
        else:
            with pytest.raises(UsageError, match="expected at most 256, found 288"):
                padding.pad(model, content)


def test_an_adapter_of_that_rank_needs_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padding, "ALWAYS_PADDED", 0)
    model = nn.Linear(1, 1)
    model.__dict__[padding._RANK] = 4
    pair = {"down.weight": torch.ones(4, 100), "up.weight": torch.ones(100, 4)}
    content = Component(layers={"fc": Layer({leaf: Tensor.from_torch(tensor) for leaf, tensor in pair.items()})})
    assert padding.pad(model, content).layers["fc"].rank == 4
