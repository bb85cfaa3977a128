"""A distillation's report as one HTML page that needs nothing else: charts and pictures are in it, texts escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from html import escape as escape_html

from si_hub.foreign import make_safe
from si_hub.report import pictures
from si_hub.report.charts import CHARTS, charts_of, figure_png, new_figure, style_axes
from si_hub.report.distillation import Distillation, ImageRow, LayerSpend
from si_hub.report.text import size_text

CHART_SIZE, WIDE_SIZE = (5.4, 3.2), (11.0, 3.4)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; background: #fff; max-width: 1120px; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } th, td { text-align: left; padding: .15rem .9rem .15rem 0; vertical-align: top;
  overflow-wrap: anywhere } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% } .pictures { width: 100%; table-layout: fixed } .pictures img { width: 100%; max-width: 320px }
.verdict { font-size: 1.15rem } .prompt { color: #6b7280 } details { margin: .5rem 0 }
figure { display: inline-block; margin: 0 } pre { background: #f3f4f6; padding: .6rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere }
"""

#: What the errors mean, for readers who have not seen the program.
TIMESTEPS = (
    "Error by timestep: a picture begins as noise at timestep 1000 and is finished at 0. Errors at high timesteps move "
    "what is drawn where, errors at low ones change texture and edges; 0 is the tuned model, 1 the base."
)
KINDS_OF_PROMPTS = (
    "Error by kind of prompt: with a prompt, and with the null prompt, which guidance subtracts in every step; where "
    "the second is much larger, high guidance scales will show it."
)
#: Characters of one text, at most.
TEXT_LIMIT = 1000
#: Nothing is loaded and nothing runs, whatever a text may say.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(report: Distillation) -> str:
    """The whole page."""
    title = _text(report.title)
    body = "\n".join(_sections(report))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    )


def _text(words: object) -> str:
    """A foreign text within an element or a quoted attribute."""
    return escape_html(make_safe(words, TEXT_LIMIT, prose=True))


def _sections(report: Distillation) -> Iterator[str]:
    if report.verdict:
        yield f'<p class="verdict">{_text(report.verdict)}</p>'
    if report.rows:
        yield "<h2>Pictures from equal noise</h2>" + _picture_table(report.rows)
    for what, line in report.commands.items():
        yield f"<h2>{_text(what)}</h2><pre>{_text(line)}</pre>"
    if report.facts:
        yield "<h2>What it is</h2>" + _table(report.facts)
    if report.buckets:
        yield f"<p>{TIMESTEPS}</p>"
    if report.kinds:
        yield f"<p>{KINDS_OF_PROMPTS}</p>" + _table({kind: f"{error:.4g}" for kind, error in report.kinds.items()})
    for name in charts_of(report):
        yield _chart(report, name)
    if report.curve:
        yield _details("Error by size as a table", _curve_table(report))
    if report.layers:
        yield _details(f"All {len(report.layers)} layers", _layer_table(report.layers))
    if report.left_out:
        yield _details(f"Left out: {len(report.left_out)}", _table(report.left_out))


def _chart(report: Distillation, name: str) -> str:
    chart = CHARTS[name]
    figure = new_figure(*(WIDE_SIZE if chart.wide else CHART_SIZE))
    chart.draw(style_axes(figure.add_subplot(), chart.title), report)
    width = WIDE_SIZE[0] if chart.wide else CHART_SIZE[0]
    return f"<figure>{_image(figure_png(figure, dpi=160), chart.title, width)}</figure>"


def _image(data: bytes, text: str, inches: float | None = None) -> str:
    width = "" if inches is None else f' width="{round(inches * 100)}"'
    return f'<img src="data:image/png;base64,{b64encode(data).decode()}" alt="{_text(text)}"{width}>'


def _table(rows: Mapping[str, str]) -> str:
    lines = (f"<tr><th>{_text(name)}</th><td>{_text(text)}</td></tr>" for name, text in rows.items())
    return f"<table>{''.join(lines)}</table>"


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{_text(summary)}</summary>{content}</details>"


def _number_table(head: Sequence[str], rows: Iterator[Sequence[str]], texts: int) -> str:
    """A table whose first ``texts`` columns are words and whose others are numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [f"{tag}" if k < texts else f'{tag} class="n"' for k in range(len(cells))]
        return "".join(f"<{kind}>{_text(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def _curve_table(report: Distillation) -> str:
    points = sorted(report.curve, key=lambda point: point.size)
    rows = (
        (size_text(p.size), f"{p.predicted:.4g}", "" if p.measured is None else f"{p.measured:.4g}") for p in points
    )
    return _number_table(("size", "predicted", "measured"), rows, 0)


def _layer_table(layers: Sequence[LayerSpend]) -> str:
    rows = ((layer.component, layer.module, layer.kind, str(layer.rank), size_text(layer.size)) for layer in layers)
    return _number_table(("component", "module", "kind", "rank", "size"), rows, 3)


def _picture_table(rows: Sequence[ImageRow]) -> str:
    titles = list(dict.fromkeys(title for row in rows for title in row.images))
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    body = "".join(_picture_rows(rows, titles))
    return f'<table class="pictures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _picture_rows(rows: Sequence[ImageRow], titles: Sequence[str]) -> Iterator[str]:
    for row in rows:
        said = f"{row.prompt} (seed {row.seed})"
        yield f'<tr><td class="prompt" colspan="{len(titles)}">{_text(said)}</td></tr>'
        cells = (
            _image(pictures.picture_png(row.images[title]), f"{title}: {said}") if title in row.images else ""
            for title in titles
        )
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
