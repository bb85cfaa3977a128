"""accelerate as it was, and the bar."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from diffusers import UNet2DConditionModel

from si_hub.report.progress import ProgressBar
from si_hub.training.accelerating import accelerator_of, checkpoint_activations, keep_accelerate, show_of
from si_hub.words import keep_words


@pytest.mark.parametrize("own", [None, "bf16"])
def test_the_precision_of_ones_own_accelerator_is_left_alone(own: str | None) -> None:
    AcceleratorState._reset_state()
    mine = Accelerator(cpu=True, mixed_precision=own) if own else None
    with keep_accelerate():
        assert accelerator_of("fp16", torch.device("cpu")).mixed_precision == "fp16"
    assert AcceleratorState._shared_state.get("_mixed_precision") == own
    assert mine is None or mine.mixed_precision == own
    AcceleratorState._reset_state()


def test_training_on_the_cpu_is_autocast_there_though_ones_own_accelerator_is_elsewhere() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState()
    PartialState._shared_state["device"] = torch.device("cuda")
    with keep_accelerate():
        accelerator = accelerator_of("bf16", torch.device("cpu"))
        with accelerator.autocast():
            assert torch.is_autocast_enabled("cpu")
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert PartialState().device == torch.device("cuda")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_activations_are_computed_twice_only_where_and_while_it_is_wanted() -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), norm_num_groups=4
    )
    for wanted in (True, False):
        with checkpoint_activations(unet, wanted):
            assert unet.is_gradient_checkpointing is wanted
        assert not unet.is_gradient_checkpointing


def test_a_screen_follows_every_step_and_a_bar_is_told_the_words() -> None:
    assert show_of(None) is None
    seen: list[tuple[int, int]] = []
    show_of(lambda done, total: seen.append((done, total)))(3, 4, "loss 0.5")
    assert seen == [(3, 4)]
    told: dict[str, object] = {}
    bar = ProgressBar(SimpleNamespace(update=lambda _, **values: told.update(values)), None)
    # `distill` hands on what it is given so that it speaks the words of who gave it.
    show_of(keep_words(bar))(3, 4, "loss 0.5")
    assert told == {"text": "3/4 loss 0.5", "completed": 3, "total": 4}


def test_what_is_trained_on_the_cpu_is_not_autocast_for_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate takes Apple's device where there is one, whatever device the leaves are on."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("accelerate.Accelerator", lambda **words: asked.append(words))
    for device in ("cpu", "mps", "cuda:1"):
        accelerator_of("bf16", torch.device(device))
    assert [words["cpu"] for words in asked] == [True, False, False]
    assert {words["device_placement"] for words in asked} == {False}
