"""The parts of the site's tools that need neither mkdocs nor a browser; `make docs` runs them with both."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from si_hub.cli import main
from tests.places import ROOT
from website import browser, commands, entries, hooks

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_names_that_share_an_explanation_have_it_each() -> None:
    text = "What.\n\nArgs:\n    a, b: one\n        and more.\n    c: two.\n\nRaises:\n    D, E: three.\n\nf, g: no."
    assert entries.split_names(text) == (
        "What.\n\nArgs:\n    a: one\n        and more.\n    b: one\n        and more.\n    c: two.\n\n"
        "Raises:\n    D: three.\n    E: three.\n\nf, g: no."
    )


@pytest.mark.parametrize(
    ("page", "link", "leads"),
    [
        ("A.md", "../examples/train_loop.py", "{home}/blob/main/examples/train_loop.py"),
        ("A.md", "../examples#x", "{home}/tree/main/examples#x"),
        ("reference/a.md", "../../README.md", "{home}/blob/main/README.md"),
        ("A.md", "B.md#x", "B.md#x"),
        ("reference/a.md", "../B.md", "../B.md"),
        ("A.md", "https://arxiv.org/abs/2401.13942", "https://arxiv.org/abs/2401.13942"),
    ],
)
def test_a_link_out_of_the_pages_leads_to_the_repository(page: str, link: str, leads: str) -> None:
    made = hooks.on_page_markdown(f"see [it]({link}).", SimpleNamespace(file=SimpleNamespace(src_uri=page)))
    assert made == f"see [it]({leads.format(home=hooks.repository())})."


def test_a_link_to_nothing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    hooks.on_page_markdown("[it](../nothing.py)", SimpleNamespace(file=SimpleNamespace(src_uri="A.md")))
    assert [record.message for record in caplog.records] == ["A.md links to ../nothing.py, which is not there"]


def test_links_and_anchors_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="a/#there">x</a><a href="a/#gone">x</a><a href="b/">x</a><img src="no.png"><a href="https://b.c/d">x</a>',
        encoding="utf-8",
    )
    (tmp_path / "a" / "index.html").write_text('<h2 id="there">x</h2><a href="..">x</a>', encoding="utf-8")
    assert browser.broken_links(tmp_path) == [
        "index.html: a/#gone has no such anchor",
        "index.html: b/ is not there",
        "index.html: no.png is not there",
    ]


def test_the_page_of_commands_has_every_command_and_every_option() -> None:
    page = commands.page()
    for name, command in main.commands.items():
        part = page.partition(f"\n## si-hub {name}\n")[2].partition("\n## ")[0]
        assert part
        assert [one for param in command.params for one in param.opts if "--" in one and one not in part] == []


def test_what_the_extra_names_is_installed_exactly() -> None:
    [extra] = re.findall(r"^docs = \[(.*)\]$", PROJECT, re.MULTILINE)
    wanted = set(re.findall(r'"([\w-]+)', extra))
    pinned = re.findall(r"^([\w.-]+)==\S+$", (ROOT / "website" / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    assert wanted <= set(pinned)


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")}
    assert named == pages | {"reference/commands.md"}


def test_no_page_has_what_is_fetched_from_elsewhere() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert not re.search(r"!\[[^]]*\]\(https?:|<(?:img|script|link)\b", page.read_text(encoding="utf-8")), page.name
