"""What is said of an adapter, and when it is doubted."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from si_hub.cli import main
from si_hub.distill.result import doubts
from si_hub.words import at_command_line
from tests.miniature import BASE, NEON


def test_json_holds_the_result_and_text_says_it(tmp_path: Path) -> None:
    output = str(tmp_path / "neon.safetensors")
    command = ["distill", str(BASE), str(NEON), "-o", output, "--method", "svd", "--rank", "2", "--dtype", "fp16"]
    result = json.loads(CliRunner().invoke(main, [*command, "--json"], catch_exceptions=False).stdout)
    assert (result["path"], result["method"], result["size"]) == (output, "svd", Path(output).stat().st_size)
    assert result["ranks"]["2"] == 101
    text = CliRunner().invoke(main, [*command, "--force"], catch_exceptions=False).stdout
    assert text.splitlines()[0] == output
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
