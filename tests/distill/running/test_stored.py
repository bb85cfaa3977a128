"""Weights that stay in their files: what is read, and what is there instead."""

from __future__ import annotations

import numpy
import pytest
import torch

from si_hub.distill.pair.weights import Weight
from si_hub.distill.running.blocks import Workplace
from si_hub.distill.running.stored import StoredParameter, mixture
from si_hub.storage.tensors import Tensor

CPU = torch.device("cpu")


def _weights(dtype: torch.dtype) -> tuple[Weight, Weight]:
    draw = torch.Generator().manual_seed(0)
    base, tuned = (Tensor.from_torch(torch.randn(5, 4, generator=draw).to(dtype)) for _ in range(2))
    return Weight.in_file(base, "a"), Weight.in_file(tuned, "a")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_mixture_has_all_the_digits_that_it_has_by_hand(dtype: torch.dtype, share: float) -> None:
    base, tuned = _weights(dtype)
    found = mixture(base, tuned, share)(CPU)
    ends = [side.torch().double().numpy() for side in (base, tuned)]
    assert found.dtype == (dtype if share in {0.0, 1.0} else torch.float32)
    numpy.testing.assert_allclose(found.double().numpy(), (1 - share) * ends[0] + share * ends[1], rtol=2e-6, atol=2e-7)


def test_a_stored_parameter_has_no_numbers_until_it_is_brought() -> None:
    base, tuned = _weights(torch.float16)
    found = StoredParameter.of(base, torch.bfloat16)
    assert (found.shape, found.dtype, found.requires_grad) == ((5, 4), torch.bfloat16, False)
    assert found.isnan().all()
    assert found.untyped_storage().nbytes() == 2
    assert torch.equal(Workplace(CPU).bring(found), base.torch().bfloat16())
    found.read = mixture(base, tuned, 1.0)
    brought = Workplace(CPU, torch.float32).bring(found)
    assert torch.equal(brought, tuned.torch().float())
    assert brought.is_contiguous()
