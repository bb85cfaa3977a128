"""What is asked for is checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import si_hub
from si_hub.errors import CannotRun, FileAccessError, MissingFile, UsageError
from si_hub.training.command import plan_training
from si_hub.training.order import read_order, read_prompt_lines
from tests.miniature import BASE, INK
from tests.training.drawn import write_pictures


def dry(ink: Path, output: Any, **told: Any) -> Any:
    return plan_training(BASE, ink, output, **told)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(ink: Path, tmp_path: Path) -> None:
    found = dry(ink, tmp_path / "a.safetensors", rank=3, report=tmp_path / "r.html")
    assert (found.pictures, found.settings["rank"], found.path) == ({"": 4}, 3, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_the_pictures_and_a_folder_is_shared_as_it_is(
    ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dry(ink, None).path == ink.parent / "ink.styleinject.safetensors"
    assert dry(ink, None, method="lora").path == ink.parent / "ink.safetensors"
    assert dry(ink, "new/").path == Path("new/styleinject.safetensors")
    assert dry(ink, "new/", method="lora").path == Path("new/lora.safetensors")
    two = plan_training(BASE, styles=[ink, tmp_path_with(tmp_path, "neon", ink)])
    assert two.path == ink.parent / "ink-neon.styleinject.safetensors"
    assert two.settings["router"] == "fixed"


def tmp_path_with(folder: Path, name: str, ink: Path) -> Path:
    import shutil

    return Path(shutil.copytree(ink, folder / name))


def test_each_style_is_measured_on_unseen_pictures_of_its_own(ink: Path, tmp_path: Path) -> None:
    neon, unseen = tmp_path_with(tmp_path, "neon", ink), tmp_path / "unseen"
    unseen.mkdir()
    tmp_path_with(unseen, "ink", ink)
    with pytest.raises(MissingFile, match=r"has no folder for a style.*no neon"):
        plan_training(BASE, output=tmp_path / "a.safetensors", styles=[ink, neon], validation=unseen)
    write_pictures(unseen / "neon", "neon", count=2)
    order = read_order(
        BASE, None, tmp_path / "a.safetensors", styles=[ink, neon], caption=None, validation=unseen, prompts=None,
        report=(), about={}, settings={}, dtype="fp32", work=None, force=False, progress=None,
    )  # fmt: skip
    found = [(one.file.parent.name, one.branch) for one in order.validation]
    assert found == [("ink", "ink")] * 4 + [("neon", "neon")] * 2


def test_a_sheet_of_drawings_lies_beside_the_file_and_is_not_overwritten(ink: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "a-drawn.png"
    sheet.touch()
    assert dry(ink, tmp_path / "a.styleinject.safetensors").settings["steps"] == 100
    with pytest.raises(FileAccessError, match=r"a-drawn\.png: already exists.*every"):
        dry(ink, tmp_path / "a.styleinject.safetensors", every=10)
    assert dry(ink, tmp_path / "a.styleinject.safetensors", every=10, force=True)
    # Where it would be learned from when the training is taken up again.
    with pytest.raises(FileAccessError, match=r"b-drawn\.png: would lie among what is read"):
        dry(ink, ink / "b.safetensors", every=10, force=True)
    # An interrupted training's own.
    (tmp_path / ".a.styleinject.safetensors.work").mkdir()
    assert dry(ink, tmp_path / "a.styleinject.safetensors", every=10)


@pytest.mark.parametrize(
    ("told", "error", "said"),
    [
        ({"output": "a.ckpt"}, UsageError, "no name that loaders open"),
        ({"output": "gone/a.safetensors"}, MissingFile, "the folder does not exist"),
        ({"output": "there.safetensors"}, FileAccessError, "already exists"),
        ({"report": "r.pdf"}, UsageError, "no kind of report"),
        ({"prompts": "gone.txt"}, MissingFile, "no such file of prompts"),
        ({"prompts": []}, UsageError, "prompts: names no prompt"),
        ({"dtype": "int8"}, UsageError, "dtype: is no kind of number"),
        ({"device": "abacus"}, UsageError, "is no device"),
        ({"validation": "empty"}, MissingFile, "no folder with pictures"),
        ({"base": "gone/"}, MissingFile, "no such folder"),
        ({"base": str(INK)}, CannotRun, "no whole pipeline"),
        ({"pictures": None}, UsageError, "name one folder of pictures"),
        ({"styles": ["empty"]}, UsageError, "name one folder of pictures"),
    ],
)
def test_what_goes_wrong_is_told_before_any_work(
    ink: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.safetensors").touch()
    (tmp_path / "empty").mkdir()
    given: dict[str, Any] = {"base": BASE, "pictures": ink, "output": "a.safetensors", **told}
    with pytest.raises(error, match=said):
        si_hub.train(given.pop("base"), given.pop("pictures"), **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "there.safetensors"]


def test_styles_need_names_of_their_own_and_are_the_branches(ink: Path, tmp_path: Path) -> None:
    other = tmp_path_with(tmp_path, "neon", ink)
    with pytest.raises(UsageError, match="two styles have one name"):
        si_hub.train(BASE, styles=[ink, ink], output=tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="the method lora has no branches"):
        si_hub.train(BASE, styles=[ink, other], method="lora", output=tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="branches: each style is a branch"):
        si_hub.train(BASE, styles=[ink, other], branches=3, output=tmp_path / "a.safetensors")
    assert plan_training(BASE, styles=[ink, other], output=tmp_path / "a.safetensors").settings["branches"] == 2


def test_pictures_and_models_are_never_replaced(ink: Path, tmp_path: Path) -> None:
    copy = tmp_path_with(tmp_path, "mine", ink)
    (copy / "x.safetensors").touch()
    with pytest.raises(FileAccessError, match="is a file of what is read"):
        dry(copy, copy / "x.safetensors", force=True)
    with pytest.raises(FileAccessError, match="is what the report is made from"):
        dry(copy, tmp_path / "a.safetensors", report=copy / "00.png", force=True)


def test_prompts_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("# none\n\n a fox \nan owl\n", encoding="utf-8")
    assert read_prompt_lines(file) == ["a fox", "an owl"]
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds no prompt"):
        read_prompt_lines(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a UTF-8 text"):
        read_prompt_lines(file)
