"""The report of a distillation: its numbers are the file's, its pictures those of diffusers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from si_hub.distill import Distilled, Pair, distill
from si_hub.distill.report import report_of
from si_hub.errors import FileAccessError, UsageError
from tests.miniature import BASE, INK, PROMPTS, open_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return open_pair(INK)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    """Rank 64 is nearly all of the difference."""
    output = tmp_path_factory.mktemp("made") / "ink.safetensors"
    return distill(BASE, INK, output=output, method="svd", rank=64, embeddings=True)


def test_every_changed_module_is_told_with_what_the_file_holds_for_it(made: Distilled, pair: Pair) -> None:
    report = report_of(made, [pair])
    assert {(one.component, one.module) for one in report.layers} == {(c.component, c.module) for c in pair.changes}
    sizes: dict[str, int] = {}
    with safe_open(made.path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 – safetensors' file is no table
            stem = next(stem for leaf in ("down.weight", "down.scale", "up.weight", "weight_delta", "bias_delta")
                        if (stem := name.removesuffix(f".{leaf}")) != name)  # fmt: skip
            sizes[stem] = sizes.get(stem, 0) + file.get_tensor(name).nbytes
        ranks = {name.removesuffix(".up.weight"): file.get_slice(name).get_shape()[1]
                 for name in file.keys() if name.endswith(".up.weight")}  # noqa: SIM118  # fmt: skip
    for one in report.layers:
        stem = f"{one.component}.{one.module}"
        assert (one.size, one.rank) == (sizes.get(stem, 0), ranks.get(stem, 0)), stem
    assert report.size == made.path.stat().st_size
    assert report.carried == made.carried


def test_what_was_left_out_has_a_place_in_the_report_and_no_rank(tmp_path: Path, pair: Pair) -> None:
    made = distill(BASE, INK, output=tmp_path / "ink.safetensors", method="svd", rank=1)
    report = report_of(made, [pair])
    assert report.left_out == made.left_out
    assert "text_encoder.text_model.embeddings.token_embedding" in made.left_out
    told = {f"{one.component}.{one.module}": (one.rank, one.size) for one in report.layers}
    assert {told[name] for name in made.left_out} == {(0, 0)}


def test_asked_for_files_are_written_and_the_adapter_is_the_same_without(tmp_path: Path, made: Distilled) -> None:
    files = [tmp_path / "report.html", tmp_path / "report.png"]
    again = distill(
        BASE, INK, output=tmp_path / "ink.safetensors", method="svd", rank=64, embeddings=True, report=files,
        pictures=1, prompts=PROMPTS,
    )  # fmt: skip
    assert again.path.read_bytes() == made.path.read_bytes()
    page = files[0].read_text(encoding="utf-8")
    assert made.identity in page
    assert page.count("data:image/png") == 2 + 3
    assert files[1].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"report": "report.txt"}, UsageError),
        ({"report": ["a.html", "there.png"]}, FileAccessError),
        ({"report": "a.html", "pictures": -1}, UsageError),
    ],
)
def test_a_report_that_cannot_be_written_stops_everything_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.png").write_bytes(b"mine")
    with pytest.raises(error):
        distill(BASE, INK, output="ink.safetensors", method="svd", **options)
    assert [file.name for file in tmp_path.iterdir()] == ["there.png"]


def test_where_nothing_can_be_drawn_the_report_says_why(tmp_path: Path) -> None:
    distill(BASE / "unet", INK, output=tmp_path / "x.safetensors", method="svd", rank=1, report=tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "none, since the base is not a whole pipeline" in page
    assert "Pictures from equal noise" not in page
