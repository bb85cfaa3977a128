"""Gains and rotations in LyCORIS's words; that they act as they did is in `test_matrix.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from si_hub.adapter import Layer
from si_hub.architectures.layouts import Part
from si_hub.converters.dense import BaseModule
from si_hub.errors import ConversionRefused
from si_hub.exporting.turning import is_rotation, is_scale, spell_rotation, spell_scale
from si_hub.storage.tensors import Tensor
from tests.converters.tiny import MODULES, as_parameters, weights

LINEAR = "mid_block.linear"


def own() -> BaseModule:
    return BaseModule(as_parameters(weights()), "unet", (Part(LINEAR),), MODULES, Path("adapter"), LINEAR)


def turned(blocks: int, size: int, lengths: float = 1.0) -> torch.Tensor:
    """lengths · Rᵀ - 1 of random rotations, by the QR decomposition."""
    generator = torch.Generator().manual_seed(blocks)
    q, r = torch.linalg.qr(
        torch.eye(size) + 0.2 * torch.randn(blocks, size, size, generator=generator, dtype=torch.float64)
    )
    rotation = q * r.diagonal(dim1=1, dim2=2).sign()[:, None, :]
    whole: torch.Tensor = lengths * rotation.mT - torch.eye(size)
    return whole


@pytest.mark.parametrize("lengths", [1.0, 1.5])
def test_blocks_are_those_of_cayleys_formula(lengths: float) -> None:
    turn = turned(4, 4, lengths)
    layer = Layer({"turn": Tensor.from_torch(turn)})
    assert is_rotation(layer)
    found = spell_rotation("mid", layer, None, False, 2)
    blocks = torch.from_numpy(found["oft_blocks"].numpy().astype(np.float64))
    skew, identity = blocks - blocks.mT, torch.eye(4, dtype=torch.float64)
    rotation = (identity + skew) @ torch.linalg.inv(identity - skew)
    torch.testing.assert_close(lengths * rotation.mT - identity, turn, rtol=0, atol=1e-5)
    assert ("rescale" in found) == (lengths != 1)
    if lengths != 1:
        np.testing.assert_allclose(found["rescale"].numpy(), np.full((16, 1), lengths), rtol=1e-6)
    assert found["alpha"].item() == 0


def test_what_is_no_rotation_is_refused() -> None:
    layer = Layer({"turn": Tensor.from_torch(torch.full((2, 3, 3), 0.4))})
    with pytest.raises(ConversionRefused, match=r"mid: its matrices on the outputs are no rotations"):
        spell_rotation("mid", layer, None, False, 2)


def test_gains_are_scales_of_one_side() -> None:
    gain = Tensor.from_numpy(np.array([1.5, 0.5, 1.0], "<f4"))
    outputs, inputs = Layer({"gain": gain}), Layer({"gain_in": gain})
    assert is_scale(outputs)
    assert not is_scale(Layer({"gain": gain, "gain_in": gain}))
    found = spell_scale("mid", outputs, None, False, 2)
    assert (found["ia3_weight"].numpy().tolist(), found["on_input"].item()) == ([0.5, -0.5, 0.0], 0)
    found = spell_scale("mid", inputs, None, True, 4)
    assert (found["ia3_weight"].shape, found["on_input"].item()) == ((1, 3, 1, 1), 1)


def test_a_bias_that_is_changed_as_well_is_refused() -> None:
    gain = np.linspace(0.5, 1.5, 32)
    bias = weights()["unet"][f"{LINEAR}.bias"].double().numpy()
    taken = Tensor.from_numpy(((1 - gain) * bias).astype("<f4"))
    kept = Layer({"gain": Tensor.from_numpy(gain.astype("<f4")), "bias_delta": taken})
    assert set(spell_scale("mid", kept, own(), True, 2)) == {"ia3_weight", "on_input"}
    changed = Layer({"gain": Tensor.from_numpy(gain.astype("<f4"))})
    with pytest.raises(ConversionRefused, match="changes the bias as well"):
        spell_scale("mid", changed, own(), True, 2)
