"""The question of what several tuned models share, asked twice at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub.distill import compare
from si_hub.distill.work import Work
from si_hub.errors import FileAccessError

MINIATURE = Path(__file__).parents[2] / "examples" / "miniature"
BASE = MINIATURE / "base"
NEON, INK = (MINIATURE / f"checkpoints/{name}.safetensors" for name in ("neon", "ink"))


def test_two_that_ask_at_once_do_not_throw_away_each_other_s_work(tmp_path: Path) -> None:
    work = Work(tmp_path / "work")
    with work.held():
        work.open({"sharing": "another's"})
        with pytest.raises(FileAccessError, match="another run is at work in it"):
            compare(BASE, NEON, INK, work=work.folder)
        assert [path.name for path in work.folder.iterdir()] == ["plan.json"]
