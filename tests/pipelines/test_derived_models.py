"""What others make of a model that has adapters in it: other models, traced and exported ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNetMotionModel

Make = Callable[..., Any]


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("fused", [False, True])
def test_a_controlnet_of_a_unet_has_the_unet_s_weights_and_no_adapter(
    fused: bool, sd: Make, lora: Make, adapter: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    if fused:
        pipe.fuse_styleinject()
    expected = {key: value for key, value in weights(pipe.unet).items() if "styleinject" not in key}
    found = weights(ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8)))
    shared = {key for key in found if not key.startswith("controlnet_")}
    assert any("to_q" in key for key in shared)
    assert all(torch.equal(found[key], expected[key]) for key in shared)


def test_a_motion_model_of_a_unet_has_the_unet_s_weights(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    expected = weights(pipe.unet)
    found = weights(UNetMotionModel.from_unet2d(pipe.unet))
    shared = found.keys() & expected.keys()
    assert any("to_q" in key for key in shared)
    assert all(torch.equal(found[key], expected[key]) for key in shared)
    assert not any("styleinject" in key for key in found)


def test_the_adapted_model_s_own_state_holds_the_adapter(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    named = {key for key, _ in pipe.unet.named_parameters()}
    assert {key for key in pipe.unet.state_dict() if "styleinject" in key} == {k for k in named if "styleinject" in k}
    compiled: Any = torch.compile(pipe.unet, backend="eager")
    outer = torch.nn.ModuleDict({"inner": compiled})
    assert sum("styleinject" in key for key in outer.state_dict()) == sum("styleinject" in key for key in named)
    assert not any("styleinject" in key for key in pipe.unet.down_blocks.state_dict())


class Sample(torch.nn.Module):
    """A UNet that gives a tensor."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: torch.Tensor, time: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.unet(latents, time, states, return_dict=False)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("state", ["acting", "fused", "disabled"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_is_the_model_as_it_is(state: str, sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)))
    if state == "fused":
        pipe.fuse_styleinject()
    elif state == "disabled":
        pipe.disable_styleinject()
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor(10), torch.randn(2, 16, 24))
    with torch.no_grad():
        expected = Sample(pipe.unet)(*inputs)
        traced = torch.jit.trace(Sample(pipe.unet), inputs, check_trace=False)  # type: ignore[no-untyped-call]
        torch.testing.assert_close(traced(*inputs), expected)
