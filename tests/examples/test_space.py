"""The Space, before there is a page; `make app-test` serves it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.places import ROOT

SPACE = ROOT / "examples" / "space"


def test_its_card_names_the_file_that_is_served_and_the_gradio_that_is_tested() -> None:
    card = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card["sdk"] == "gradio"
    assert (SPACE / card["app_file"]).is_file()
    assert f"gradio=={card['sdk_version']}" in (ROOT / "tests/app/requirements.txt").read_text(encoding="utf-8").split()


def test_without_its_variables_it_says_what_to_set_in_one_line(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("ADAPTERS", "BASE")}
    done = subprocess.run(
        [sys.executable, str(SPACE / "app.py")], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**env, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "app.py: ADAPTERS and BASE are not set. Set them in the Space's settings, or in the shell\n"
