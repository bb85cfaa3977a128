"""`python -m tests.comfyui_suite`: the nodes of examples/comfyui on ComfyUI's own models and model patchers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.comfyui_suite.fetching import fetch_comfyui

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "comfyui"


def main(arguments: list[str]) -> int:
    sys.path.insert(0, str(fetch_comfyui(BUILD)))
    # ComfyUI reads the words of its own command line when it is imported.
    sys.argv = ["comfyui", "--cpu"]
    return int(pytest.main(["-q", "-p", "no:cacheprovider", str(HERE / "suite.py"), *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
