"""docs/TRAIN.md and the code say the same, as far as names go; the loop of one's own runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from click.testing import CliRunner

from si_hub.cli import main
from si_hub.training.settings import TrainSettings
from tests.miniature import BASE
from tests.places import ROOT

TEXT = (ROOT / "docs" / "TRAIN.md").read_text(encoding="utf-8")


def test_every_setting_has_its_row_and_every_option_of_the_page_is_one() -> None:
    table = TEXT.partition("| | default | |")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named | {"trigger"} == {one.name for one in fields(TrainSettings)}
    said = set(re.findall(r"`[^`\n]*?(--[a-z-]+)", TEXT)) - {"--num_processes", "--cpu"}
    help_ = CliRunner().invoke(main, ["train", "--help"]).stdout
    assert {option for option in said if option not in help_} <= {"--num", "--cpu"}


def test_a_loop_of_one_s_own_learns(ink: Path, tmp_path: Path) -> None:
    script = ROOT / "examples" / "train_loop.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) < 120
    done = subprocess.run(
        [sys.executable, str(script), str(BASE), str(ink), str(tmp_path / "own.safetensors"), "--steps", "50",
         "--batch", "2", "--rank", "2", "--side", "32"],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loss = re.search(r"step 50: loss ([0-9.]+)", done.stdout)
    assert loss is not None
    assert 0 < float(loss[1]) < 0.7
    assert (tmp_path / "own.safetensors").is_file()
