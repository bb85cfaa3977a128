"""The page of a report: everything in it, and no text that becomes more than text."""

from __future__ import annotations

import re
from pathlib import Path

from si_hub.report.distillation import CurvePoint, Distillation
from si_hub.report.writing import write_report
from tests.report.world import HOSTILE, Page, full_report


def test_a_page_holds_its_charts_and_pictures_and_needs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(full_report(), file)
    page = Page(file.read_text(encoding="utf-8"))
    assert len(page.images()) == 5 + 3
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert page.images()[0].getpixel((0, 0)) == (200, 10, 10)
    text = file.read_text(encoding="utf-8")
    for said in ("4 layers", "40.0 kB", "0.12", "mid_block.to_q", "Left out", "a red ring (seed 3)"):
        assert said in text


def test_no_text_becomes_a_tag_or_an_attribute(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(full_report(HOSTILE), file)
    page = Page(file.read_text(encoding="utf-8"))
    assert not [tag for tag, attributes in page.tags if tag == "script" or "onload" in attributes]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in file.read_text(encoding="utf-8")


def test_a_page_shows_only_what_it_has_data_for(tmp_path: Path) -> None:
    curve = Distillation("curve", curve=[CurvePoint(10, 0.5), CurvePoint(20, 0.25)])
    write_report(curve, tmp_path / "curve.html")
    text = (tmp_path / "curve.html").read_text(encoding="utf-8")
    assert len(Page(text).images()) == 1
    assert not re.search("Left out|layers|Pictures", text)


def test_every_layer_and_every_size_has_a_row_of_its_own(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path / "report.html")
    rows = re.findall("<tr>(.*?)</tr>", (tmp_path / "report.html").read_text(encoding="utf-8"))
    cells = [re.findall("<td[^>]*>(.*?)</td>", row) for row in rows]
    assert ["unet", "mid_block.to_q", "linear", "4", "512 B"] in cells
    sizes = [row for row in cells if len(row) == 3 and row[0].endswith("kB")]
    assert sizes == [["10.0 kB", "0.4", ""], ["20.0 kB", "0", ""], ["40.0 kB", "0.1", "0.12"]]


def test_pictures_and_the_verdict_come_first_and_lists_are_folded(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8").partition("<body>")[2]
    order = [
        "close to the tuned model", "Pictures from equal noise", "pipe.load_styleinject_weights", "Error by timestep:",
        "Error by kind of prompt:", "<details><summary>All 4 layers", "<details><summary>Left out: 1",
    ]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
