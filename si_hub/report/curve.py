"""The choice of a size, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from si_hub.report.distillation import CurvePoint
from si_hub.report.text import size_text

BAR_WIDTH = 40
EIGHTHS = " ▏▎▍▌▋▊▉"


def curve_text(points: Sequence[CurvePoint], chosen: int | None = None) -> str:
    """Error by size as lines for people, the smallest first, a bar for each; ``chosen`` bytes are marked.

    The bar shows what was measured where it was, else what is predicted; its full width is the base's error.
    """
    measured = any(point.measured is not None for point in points)
    lines = [f"{'size':>10}  {'predicted':>9}" + (f"  {'measured':>8}" if measured else "") + "  error left"]
    for point in sorted(points, key=lambda point: point.size):
        known = point.predicted if point.measured is None else point.measured
        bar = bar_of(known)
        seen = f"  {'' if point.measured is None else f'{point.measured:.4f}':>8}" if measured else ""
        mark = "  <- chosen" if point.size == chosen else ""
        lines.append(f"{size_text(point.size):>10}  {point.predicted:9.4f}{seen}  {bar}{mark}")
    return "\n".join(lines)


def bar_of(share: float) -> str:
    """A bar of up to `BAR_WIDTH` characters, in eighths of one; never nothing."""
    whole, eighths = divmod(max(1, round(8 * BAR_WIDTH * min(share, 1.0))), 8)
    return ("█" * whole + EIGHTHS[eighths]).rstrip()
