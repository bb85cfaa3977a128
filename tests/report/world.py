"""A report with something in every place, and what is in its files."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from si_hub.report.distillation import Bucket, CurvePoint, Distillation, ImageRow, LayerSpend
from si_hub.report.writing import write_report

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
        losses=[2.0, float("nan"), 1.0],
        errors=[(0, 1.0), (3, 0.5)],
        verdict=f"close to the tuned model {text}",
        commands={text: f"pipe.load_styleinject_weights({text!r})"},
        kinds={text: 0.1},
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


def size_of(file: Path, report: Distillation) -> tuple[int, int]:
    """Width and height of the report's PNG."""
    write_report(report, file)
    with Image.open(file) as opened:
        width, height = opened.size
    return width, height
