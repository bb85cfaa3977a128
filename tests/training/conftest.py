"""The miniature's pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.miniature import BASE
from tests.training.drawn import write_pictures


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pipeline() -> Any:
    """The base's own, as it was loaded: no test leaves anything in it."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)


@pytest.fixture(scope="session")
def ink(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures in ink, with captions."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "ink")
