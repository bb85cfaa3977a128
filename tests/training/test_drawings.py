"""Drawings: of equal noise, kept, and each prompt by its branch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from si_hub.training.adapting import Pupil
from si_hub.training.drawings import UNTRAINED, Drawings, previews_of, step_title
from si_hub.training.settings import TrainSettings
from tests.miniature import BASE


@pytest.fixture(scope="module")
def pupil() -> Pupil:
    import torch

    from si_hub.training.base import load_base

    return Pupil(load_base(BASE, torch.float32), ["unet"], TrainSettings.of({"rank": 1, "targets": "to_q"}))


def test_what_was_drawn_is_drawn_once_and_found_by_steps(pupil: Pupil, tmp_path: Path) -> None:
    drawings = Drawings(pupil, tmp_path, [("a red circle", None), ("a green ring", None)], 32, 5)
    for title in (UNTRAINED, step_title(10), step_title(9)):
        drawings.draw(title)
    assert drawings.titles(10) == ["base", "step 9", "step 10"]
    assert drawings.titles(9) == ["base", "step 9"]
    one, two = drawings.pictures(UNTRAINED)
    assert one.size == (32, 32)
    assert one.tobytes() != two.tobytes()
    # Nothing was trained: the same noise is the same picture.
    assert [p.tobytes() for p in drawings.pictures("step 9")] == [one.tobytes(), two.tobytes()]
    assert drawings.seed_for(1) == 90_006
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(pupil.pipeline), "__call__", None)
        drawings.draw(UNTRAINED)


def test_each_prompt_is_drawn_by_a_branch_or_names_it() -> None:
    told: Any = previews_of(["a", "b", "c"], ["ink", "neon"], routed=False)
    assert told == [("a", "ink"), ("b", "neon"), ("c", "ink")]
    assert previews_of(["a", "b"], ["ink", "neon"], routed=True) == [("a, ink", None), ("b, neon", None)]
    assert previews_of(["a"], [], routed=True) == [("a", None)]
