"""What is said of an adapter, and when it is doubted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from si_hub.cli import main
from si_hub.distill.result import Distilled, doubts
from si_hub.format import read
from si_hub.report.text import size_text
from si_hub.words import at_command_line
from tests.miniature import BASE, NEON


def test_json_holds_the_result_and_text_says_it(tmp_path: Path) -> None:
    output = str(tmp_path / "neon.safetensors")
    command = ["distill", str(BASE), str(NEON), "-o", output, "--method", "svd", "--rank", "2", "--dtype", "fp16"]
    result = json.loads(CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False).stdout)
    assert (result["path"], result["method"], result["size"]) == (output, "svd", Path(output).stat().st_size)
    assert result["ranks"]["2"] == 101
    text = CliRunner().invoke(main, [*command, "--force"], catch_exceptions=False).stdout
    assert (
        text.splitlines()[0] == f"{size_text(result['size'])} leaves {result['error']:.4f} of the weights' difference"
    )
    assert text.splitlines()[1] == output
    assert result["identity"] in text
    words = "text_encoder.text_model.embeddings"
    assert f"left out: 2 ({words}.position_embedding, {words}.token_embedding): no low-rank pair" in text


def test_an_adapter_or_a_branch_no_better_than_the_base_is_doubted() -> None:
    assert doubts({"error": 1.0328, "branches": {"ink": 0.97, "neon": 0.3}}) == [
        "the adapter is worse than the base, of whose error it leaves 1.0328: take a larger size or rank",
        "the branch ink is hardly better than the base, of whose error it leaves 0.9700: take a larger size or rank",
    ]
    lone = "the adapter is hardly better than the base, of whose error it leaves 0.9600: take a larger"
    assert doubts({"error": 0.96}) == [
        f"{lone} size or rank; si_hub.distill.curve(BASE, TUNED) shows what each size leaves"
    ]
    with at_command_line():
        assert doubts({"error": 0.96}) == [
            f"{lone} --size or --rank; si-hub distill --curve BASE TUNED shows what each size leaves"
        ]
    assert doubts({"error": 0.94}) == doubts({"measure": "of the weights"}) == []


def _made(tmp_path: Path, *more: str) -> list[str]:
    return [
        "distill",
        str(BASE),
        str(NEON),
        "-o",
        str(tmp_path / "n.safetensors"),
        "--method",
        "svd",
        "--rank",
        "1",
        *more,
    ]


def test_what_the_file_says_of_itself_is_in_it_and_quiet_says_nothing(tmp_path: Path) -> None:
    told = ["--title", "Neon", "--license", "cc0-1.0", "--trigger-words", "neon, glowing lines", "-q"]
    done = CliRunner().invoke(main, _made(tmp_path, *told), catch_exceptions=False)
    assert (done.stdout, done.stderr) == ("", "")
    about = read(tmp_path / "n.safetensors").about
    assert (about["title"], about["license"]) == ("Neon", "cc0-1.0")
    assert about["trigger_words"] == ["neon", "glowing lines"]
    curve = CliRunner().invoke(main, ["distill", str(BASE), str(NEON), "--curve", "--title", "Neon"])
    assert curve.exit_code == 2


def test_the_result_ends_with_a_verdict_and_the_line_that_loads_it(tmp_path: Path) -> None:
    text = CliRunner().invoke(main, _made(tmp_path), catch_exceptions=False).stdout
    error = json.loads(CliRunner().invoke(main, _made(tmp_path, "-f", "--json")).stdout)["error"]
    size = (tmp_path / "n.safetensors").stat().st_size
    assert f"verdict  {size_text(size)}: not run; {1 - error:.0%} of the weights' difference" in text
    line = text.split("load     ")[1].strip()
    assert line == f"pipe.load_styleinject_weights({(tmp_path / 'n.safetensors').as_posix()!r})"


@pytest.mark.parametrize(
    ("error", "words"),
    [(0.01, "hardly to be told from the tuned model"), (0.2, "like the tuned model"), (0.9, "nearer to the base"),
     (1.2, "no better than the base")],
)  # fmt: skip
def test_a_verdict_is_as_good_as_the_error_that_is_left(error: float, words: str) -> None:
    found = Distilled(
        Path("base"), (Path("ink"),), Path("a.safetensors"), 2_000_000, "calibrated", "", "custom", {}, {}, error, {},
        {}, {"error": error}, "", "", (),
    )  # fmt: skip
    assert words in found.verdict
    assert f"2.0 MB: {words}" in found.verdict
    assert f"{error:.1%} of the base's error" in found.verdict
