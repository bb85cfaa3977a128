"""What a kept survey or an interrupted run depends on: every file that changes what running a pipeline gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from si_hub.distill.command import _plan
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import Request, SurveyOptions
from si_hub.distill.survey.stages import survey_plan as survey_plan
from si_hub.work import fingerprints
from tests.miniature import NEON, copy_base, open_pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature's base."""
    return copy_base(tmp_path / "base")


@pytest.fixture
def pair(folder: Path) -> Pair:
    return open_pair(NEON, folder)


def edited(file: Path, old: bytes, new: bytes) -> None:
    """Change a file without changing its size or time."""
    fact, data = file.stat(), file.read_bytes()
    assert data.count(old)
    assert len(old) == len(new)
    file.write_bytes(data.replace(old, new, 1))
    os.utime(file, ns=(fact.st_atime_ns, fact.st_mtime_ns))


def last_byte(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


#: What is done to a pipeline's folder that gives another pipeline.
TELLING: dict[str, Callable[[Path], object]] = {
    "another schedule": lambda at: edited(at / "scheduler" / "scheduler_config.json", b"v_prediction", b"v_predictioN"),
    "another size of a layer's heads": lambda at: edited(at / "unet" / "config.json", b'"norm_eps"', b'"norm_epS"'),
    "a word of the tokenizer": lambda at: edited(next((at / "tokenizer").iterdir()), b"a", b"b"),
    "a weight": lambda at: last_byte(at / "unet" / "diffusion_pytorch_model.safetensors"),
    "a file more": lambda at: (at / "tokenizer" / "added_tokens.json").write_text("{}", encoding="utf-8"),
    "a file less": lambda at: (at / "model_index.json").unlink(),
    "another place of a file": lambda at: (at / "vae").rename(at / "vae_1"),
}
#: What is done to it that changes nothing.
SILENT: dict[str, Callable[[Path], object]] = {
    "a model card": lambda at: (at / "README.md").write_text("about", encoding="utf-8"),
    "a download's own notes": lambda at: shutil.copytree(at / "scheduler", at / ".cache" / "scheduler"),
    "a picture": lambda at: (at / "example.png").write_bytes(b"\x89PNG"),
    "a new time": lambda at: os.utime(at / "scheduler" / "scheduler_config.json", (1, 1)),
}


@pytest.mark.parametrize("what", [*TELLING, *SILENT])
def test_a_changed_pipeline_is_another_plan_and_nothing_else_is(what: str, folder: Path, pair: Pair) -> None:
    def plans() -> tuple[object, object]:
        return _plan([pair], Request(), "trained"), survey_plan(pair, [["a"], ["b"]], SurveyOptions(), {})

    before = plans()
    (TELLING | SILENT)[what](folder)
    for then, now in zip(before, plans(), strict=True):
        assert (then != now) == (what in TELLING)


def test_large_files_are_known_by_size_and_time_and_links_are_followed(folder: Path, tmp_path: Path) -> None:
    large = folder / "unet" / "large.bin"
    large.touch()
    os.truncate(large, fingerprints.READ + 1)
    before = fingerprints.model(folder)
    last_byte(large)
    assert fingerprints.model(folder) != before
    (tmp_path / "link").symlink_to(folder)
    assert fingerprints.model(tmp_path / "link") == fingerprints.model(folder)
    elsewhere = Path(shutil.move(folder / "vae", tmp_path / "vae"))
    (folder / "vae").symlink_to(elsewhere)
    before = fingerprints.model(folder)
    last_byte(elsewhere / "config.json")
    assert fingerprints.model(folder) != before


def test_other_pictures_or_captions_are_another_plan(pair: Pair, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("one.png", "two.JPG"):
        (pictures / name).write_bytes(name.encode())

    def plan() -> object:
        return _plan([pair], Request.of("trained", [NEON], options={"images": str(pictures)}), "trained")

    seen = [plan()]
    for change in (
        lambda: edited(pictures / "one.png", b"one", b"two"),
        lambda: (pictures / "one.txt").write_text("a fox", encoding="utf-8"),
        lambda: edited(pictures / "one.txt", b"fox", b"cat"),
        lambda: (pictures / "two.JPG").rename(pictures / "three.jpg"),
        lambda: (pictures / "four.webp").write_bytes(b""),
    ):
        change()
        assert plan() not in seen
        seen.append(plan())
    (pictures / "about.md").write_text("these are mine", encoding="utf-8")
    os.utime(pictures / "one.png", (1, 1))
    assert plan() == seen[-1]
