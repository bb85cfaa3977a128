"""What is said about training and written down of it, and accelerate as it was."""

from __future__ import annotations

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from si_hub.distill.training.options import accelerator_of, keep_accelerate


@pytest.mark.parametrize("own", [None, "bf16"])
def test_the_precision_of_ones_own_accelerator_is_left_alone(own: str | None) -> None:
    AcceleratorState._reset_state()
    mine = Accelerator(cpu=True, mixed_precision=own) if own else None
    with keep_accelerate():
        assert accelerator_of("fp16").mixed_precision == "fp16"
    assert AcceleratorState._shared_state.get("_mixed_precision") == own
    assert mine is None or mine.mixed_precision == own
    AcceleratorState._reset_state()
