"""A short survey of the miniature's ink, made once for the tests of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub.distill.methods.calibrated import Calibration
from si_hub.distill.request import Request
from tests.distill.methods.surveys import SHORT
from tests.miniature import INK, PROMPTS, open_pair


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def calibration(cache: Path) -> Calibration:
    options = {**SHORT, "cache": cache}
    request = Request.of("calibrated", [INK], size=10**5, dtype="fp16", prompts=PROMPTS, options=options)
    return Calibration(open_pair(INK), request)
