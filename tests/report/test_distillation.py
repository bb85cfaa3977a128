"""The report of a distillation: what is in its files, what no text can do to them, and what is refused."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.report.charts import charts_of, in_flow
from si_hub.report.curve import curve_text
from si_hub.report.distillation import Bucket, CurvePoint, Distillation, ImageRow, LayerSpend
from si_hub.report.pictures import fit_size
from si_hub.report.writing import check_report_file, write_report

HOSTILE = '<script>alert(1)</script>" onload="x $\\frac{$ 赤い円 \x1b[2J'


def layer(module: str, rank: int = 4, component: str = "unet") -> LayerSpend:
    return LayerSpend(component, module, "linear", rank, 512)


def full_report(text: str = "a red ring") -> Distillation:
    """A report with something in every place, ``text`` wherever a stranger's text can stand."""
    picture = Image.new("RGB", (32, 32), (200, 10, 10))
    return Distillation(
        title=text,
        facts={"base": text},
        size=40_000,
        layers=[layer("mid_block.to_q"), layer("conv_in", 0), layer(text, 2, text), layer("text_model.fc1", 8, "text")],
        error=0.12,
        buckets=[Bucket(0, 500, 0.2), Bucket(500, 1000, 0.0)],
        carried={"unet": 0.9, text: 0.5},
        left_out={text: text},
        curve=[CurvePoint(40_000, 0.1, 0.12), CurvePoint(20_000, 0.0), CurvePoint(10_000, 0.4)],
        rows=[ImageRow(text, 3, {"teacher": picture, text: picture}), ImageRow("two", 4, {"base": picture})],
    )


class Page(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def images(self) -> list[Image.Image]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) for source in sources]


def test_a_page_holds_its_charts_and_pictures_and_needs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(full_report(), file)
    page = Page(file.read_text())
    assert len(page.images()) == 4 + 3
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert page.images()[-1].getpixel((0, 0)) == (200, 10, 10)
    text = file.read_text()
    for said in ("4 layers", "40.0 kB", "0.12", "mid_block.to_q", "Left out", "a red ring (seed 3)"):
        assert said in text


def test_no_text_becomes_a_tag_an_attribute_or_a_formula(tmp_path: Path) -> None:
    file, sheet = tmp_path / "report.html", tmp_path / "report.png"
    write_report(full_report(HOSTILE), file)
    page = Page(file.read_text())
    assert not [tag for tag, attributes in page.tags if tag == "script" or "onload" in attributes]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in file.read_text()
    assert size_of(sheet, full_report(HOSTILE))[0] > 1000


def test_a_report_shows_only_what_it_has_data_for(tmp_path: Path) -> None:
    curve = Distillation("curve", curve=[CurvePoint(10, 0.5), CurvePoint(20, 0.25)])
    assert list(charts_of(curve)) == ["curve"]
    write_report(curve, tmp_path / "curve.html")
    text = (tmp_path / "curve.html").read_text()
    assert len(Page(text).images()) == 1
    assert not re.search("Left out|layers|Pictures", text)
    empty, full = size_of(tmp_path / "a.png", Distillation("nothing")), size_of(tmp_path / "b.png", full_report())
    assert empty[1] < full[1]


def size_of(file: Path, report: Distillation) -> tuple[int, int]:
    """Width and height of the report's PNG."""
    write_report(report, file)
    with Image.open(file) as opened:
        return opened.size


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_the_same_report_is_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        write_report(full_report(), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_layers_stand_in_the_order_in_which_data_flow() -> None:
    given = ["up_blocks.10.a", "conv_out", "up_blocks.9.a", "mid_block.a", "down_blocks.0.b", "conv_in"]
    ordered = in_flow([layer("text_model.fc1", component="text"), *map(layer, given)])
    assert [one.module for one in ordered] == [
        "text_model.fc1", "conv_in", "down_blocks.0.b", "mid_block.a", "up_blocks.9.a", "up_blocks.10.a", "conv_out",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("side", "expected"), [((32, 16), (128, 64)), ((100, 50), (200, 100)), ((2048, 1024), (512, 256))]
)
def test_small_pictures_are_enlarged_by_whole_numbers_and_large_ones_reduced(
    side: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit_size(Image.new("L", side)).size == expected


def test_the_curve_says_every_size_once_the_smallest_first_with_bars_as_long_as_the_error() -> None:
    lines = curve_text(
        [CurvePoint(40_000, 0.1, 0.5), CurvePoint(20_000, 1.5), CurvePoint(10, 0.0)], 20_000
    ).splitlines()
    assert lines[0].split() == ["size", "predicted", "measured", "error", "left"]
    assert [line.split()[0] for line in lines[1:]] == ["10", "20.0", "40.0"]
    assert [len(re.findall("[█▏▎▍▌▋▊▉]", line)) for line in lines[1:]] == [1, 40, 20]
    assert [line.endswith("<- chosen") for line in lines[1:]] == [False, True, False]
    assert "measured" not in curve_text([CurvePoint(10, 0.5)])


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("report.pdf", UsageError, r"expected .html or .png, found .pdf"),
        ("report", UsageError, "found no suffix"),
        ("folder.html", FileAccessError, "is a folder"),
        ("there.html", FileAccessError, "already exists.*overwrite=True"),
        ("nowhere/report.html", MissingFile, "folder does not exist"),
    ],
)
def test_what_cannot_be_written_is_said_before_any_work(
    tmp_path: Path, name: str, error: type[Exception], said: str
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "there.html").write_text("mine")
    with pytest.raises(error, match=said):
        check_report_file(tmp_path / name)
    with pytest.raises(error, match=said):
        write_report(Distillation("title"), tmp_path / name)
    assert (tmp_path / "there.html").read_text() == "mine"


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # Python's own way to say: not installed
    with pytest.raises(UsageError, match=r'needs matplotlib. Install it: pip install "si-hub\[report\]"'):
        write_report(full_report(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
