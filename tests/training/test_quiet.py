"""Other libraries' bars and advice, while ours loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from si_hub.training.quiet import load_quietly
from tests.miniature import BASE

LIBRARIES: list[Any] = [diffusers_logging, transformers_logging]


def shown() -> list[tuple[bool, int]]:
    return [(library.is_progress_bar_enabled(), library.get_verbosity()) for library in LIBRARIES]


@pytest.fixture
def noisy() -> Iterator[list[tuple[bool, int]]]:
    """Both libraries as somebody has who wants to see everything; at the end as they were."""
    before = shown()
    for library in LIBRARIES:
        library.enable_progress_bar()
        library.set_verbosity_info()
    yield shown()
    for library, (bars, verbosity) in zip(LIBRARIES, before, strict=True):
        (library.enable_progress_bar if bars else library.disable_progress_bar)()
        library.set_verbosity(verbosity)


def load() -> None:
    DiffusionPipeline.from_pretrained(BASE, safety_checker=None)


def test_a_pipeline_is_loaded_without_a_word_and_the_libraries_speak_again(
    noisy: list[tuple[bool, int]], capfd: pytest.CaptureFixture[str]
) -> None:
    with load_quietly():
        load()
    assert capfd.readouterr() == ("", "")
    assert shown() == noisy
    load()
    assert "Loading" in capfd.readouterr().err


def test_bars_that_somebody_has_turned_off_stay_off(noisy: list[tuple[bool, int]]) -> None:
    for library in LIBRARIES:
        library.disable_progress_bar()
    with load_quietly():
        pass
    assert [bars for bars, _ in shown()] == [False, False]
    assert [verbosity for _, verbosity in shown()] == [verbosity for _, verbosity in noisy]
