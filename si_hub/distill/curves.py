"""Error against size, before anything is decided: what ``si-hub distill --curve`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from si_hub.distill.distilling import check_options, matched
from si_hub.distill.methods import DTYPES, Request
from si_hub.distill.processes import is_main
from si_hub.distill.reporting import Wish
from si_hub.distill.work import Work
from si_hub.errors import UsageError
from si_hub.report.curve import curve_text
from si_hub.report.distillation import CurvePoint, Distillation, write
from si_hub.report.progress import Progress

#: Options of distilling that a curve has no use for.
NOT_YET = ("output", "work", "rank", "fidelity", "embeddings")


@dataclass(frozen=True, slots=True)
class Curve:
    """What each size would leave of the error.

    Attributes:
        base, tuned: the models.
        points: the smallest first.
        size: the one that was asked about, as its file would be.
    """

    base: Path
    tuned: Path
    points: tuple[CurvePoint, ...]
    size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The curve as JSON data."""
        points = [{"size": one.size, "predicted": one.predicted, "measured": one.measured} for one in self.points]
        return {"base": str(self.base), "tuned": str(self.tuned), "size": self.size, "points": points}

    def as_text(self) -> str:
        """The curve as lines for people."""
        head = f"what an adapter would leave of the error of {self.base} against {self.tuned}, calibrated:"
        return f"{head}\n{curve_text(self.points, self.size)}"


def curve(
    base: str | Path,
    *tuned: str | Path,
    size: int | None = None,
    sizes: Sequence[int] = (),
    dtype: str = "fp32",
    seed: int = 0,
    prompts: str | Path | None = None,
    trust_order: bool = False,
    report: str | Path | Sequence[str | Path] = (),
    pictures: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Curve:
    """What calibrated adapters of several sizes leave of the error, predicted and measured; no adapter is written.

    Args:
        base, tuned, dtype, seed, prompts, trust_order, progress: as for `si_hub.distill.distill`.
        size: bytes that one point is to have, and that is marked.
        sizes: of the other points; by default halves of all that the method can carry.
        report: HTML or PNG files to plot it in.
        pictures: of no use here, and harmless.
        force: overwrite them.
        options: of the method ``calibrated``.

    Raises:
        SiHubError: as `si_hub.distill.distill`.
        CannotRun: the base's pipeline cannot be run, so no error can be measured.
    """
    for name in NOT_YET:
        if options.pop(name, None):
            raise UsageError("a curve is drawn before an adapter is made", key=f"--{name}", hint="Leave it out.")
    if options.pop("method", None) not in {None, "calibrated"}:
        raise UsageError("only the method calibrated has a curve", key="--method", hint="Leave it out.")
    check_options(tuned, size=size, dtype=dtype)
    wish = Wish.of(report)
    wish.check(overwrite=force)
    pairs = matched(base, tuned, trust_order=trust_order)
    from si_hub.distill.calibrated import curve as measured

    request = Request(
        Path(), Work(Path()), size=size, dtype=DTYPES[dtype], seed=seed, prompts=Path(prompts) if prompts else None,
        options=options, progress=progress,
    )  # fmt: skip
    found = measured(pairs, request, sizes)
    points = tuple(CurvePoint(*one) for one in sorted(found))
    chosen = None if size is None else max(point.size for point in points if point.size <= size)
    result = Curve(pairs[0].base.path, pairs[0].tuned.path, points, chosen)
    if is_main():
        plotted = Distillation(
            f"{result.tuned.name}: error by size",
            {"tuned": str(result.tuned), "base": str(result.base), "numbers": dtype},
            size=chosen,
            curve=points,
        )
        for file in wish.files:
            write(plotted, file, overwrite=force)
    return result
