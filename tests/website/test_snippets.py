"""Every snippet of every page of docs/ runs, top to bottom, in a folder with what the page takes for granted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.loopback import LoopbackHub
from tests.hub.loopback.environment import turn_to
from tests.miniature import KOHYA_LORA
from tests.website.snippets import DOCS, ELSEWHERE, LAID, lay_common, run_all, snippets

PAGES = {page.relative_to(DOCS).with_suffix("").as_posix(): page for page in sorted(DOCS.rglob("*.md"))}
WITH_SNIPPETS = [name for name, page in PAGES.items() if snippets(page)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub where user/lora holds a LoRA, and somebody who is logged in to it."""
    from huggingface_hub import close_session

    with LoopbackHub(tmp_path / "hub") as hub:
        hub.repo("user/lora").commit({"lora.safetensors": KOHYA_LORA})
        turn_to(hub.url, tmp_path / "home", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", hub.token("writer"))
        close_session()
        yield hub
        close_session()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_SNIPPETS)
def test_every_snippet_of_a_page_runs(
    name: str, tmp_path: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    monkeypatch.chdir(folder)
    lay_common(folder)
    if name in LAID:
        LAID[name](folder)
    count = run_all(PAGES[name])
    only_elsewhere = all(
        line.startswith(tuple(ELSEWHERE))
        for snippet in snippets(PAGES[name]) for line in snippet.commands() if snippet.language == "sh"
    )  # fmt: skip
    assert count > 0 or only_elsewhere


def test_the_guides_have_snippets() -> None:
    assert {"index", "INSTALL", "LOAD", "SERVE", "SHARE", *LAID} <= set(WITH_SNIPPETS)


def test_nothing_is_named_elsewhere_that_no_page_has() -> None:
    lines = [line for name in WITH_SNIPPETS for one in snippets(PAGES[name]) for line in one.commands()]
    assert [start for start in ELSEWHERE if not any(line.startswith(start) for line in lines)] == []
