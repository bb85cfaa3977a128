"""What can be said before anything is decided: ``si-hub distill --curve``, error against size, and ``--sharing``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.distill.command import output_of
from si_hub.distill.pair.matching import match_all
from si_hub.distill.report import Wish
from si_hub.distill.request import Request, read_size
from si_hub.errors import UsageError
from si_hub.foreign import make_safe
from si_hub.report.curve import curve_text
from si_hub.report.distillation import CurvePoint, Distillation
from si_hub.report.progress import Progress
from si_hub.report.writing import write_report
from si_hub.words import label, rename_keywords
from si_hub.work.folder import Work
from si_hub.work.processes import is_main

if TYPE_CHECKING:
    from si_hub.distill.budget.overlap import Sharing

#: Options of distilling that have no meaning before there is an adapter: for a curve, and for what is shared.
NO_CURVE = ("output", "work", "rank", "fidelity", "embeddings")
NO_SHARING = ("output", "rank", "size", "fidelity", "method", "embeddings", "report")


@dataclass(frozen=True, slots=True)
class Curve:
    """What each size would leave of the error.

    Attributes:
        base, tuned: the models.
        points: the smallest first.
        size: the one that was asked about, as its file would be.
        fitted: whether the adapters were fitted to predictions, as one that is made is, before they were measured.
    """

    base: Path
    tuned: Path
    points: tuple[CurvePoint, ...]
    size: int | None = None
    fitted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The curve as JSON data."""
        points = [{"size": one.size, "predicted": one.predicted, "measured": one.measured} for one in self.points]
        return {
            "base": str(self.base), "tuned": str(self.tuned), "size": self.size, "fitted": self.fitted,
            "points": points,
        }  # fmt: skip

    def as_text(self) -> str:
        """The curve as lines for people."""
        base, tuned = (make_safe(path, 400, keep_end=True) for path in (self.base, self.tuned))
        when = "" if self.fitted else ", before it is fitted"
        head = f"what an adapter would leave of the error of {base} against {tuned}, calibrated{when}:"
        return f"{head}\n{curve_text(self.points, self.size)}"


@rename_keywords(overwrite="force")
def curve(
    base: str | Path,
    *tuned: str | Path,
    size: int | str | None = None,
    sizes: Sequence[int | str] = (),
    dtype: str | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    device: str | None = None,
    config: str | Path | None = None,
    trust_order: bool = False,
    report: str | Path | Sequence[str | Path] = (),
    pictures: int = 0,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Curve:
    """What calibrated adapters of several sizes leave of the error, predicted and measured; no adapter is written.

    They are not fitted to the tuned model's predictions, which takes many calls for each and would leave less, unless
    ``passes`` says so.

    Args:
        base, tuned, dtype, seed, prompts, device, config, trust_order, progress: as for `si_hub.distill.distill`.
        size: bytes, or a text such as ``40MB``, that one point is to have, and that is marked.
        sizes: of the other points; by default halves of all that the method can carry.
        report: HTML or PNG files to plot it in.
        pictures: of no use here, and harmless.
        force: overwrite them.
        options: of the method ``calibrated``.

    Raises:
        SiHubError: as `si_hub.distill.distill`.
        CannotRun: the base's pipeline cannot be run, so no error can be measured.
    """
    for name in NO_CURVE:
        if options.pop(name, None):
            raise UsageError("a curve is drawn before an adapter is made", key=label(name), hint="Leave it out.")
    if options.pop("method", None) not in {None, "calibrated"}:
        raise UsageError("only the method calibrated has a curve", key=label("method"), hint="Leave it out.")
    if len(tuned) == 1:
        options.setdefault("passes", 0)
    request = Request.of(
        "calibrated", tuned, size=size, dtype=dtype, seed=seed, prompts=prompts, device=device,
        progress=progress, options=options,
    )  # fmt: skip
    others = [one for one in (read_size(size, "sizes") for size in sizes) if one is not None]
    wish = Wish.of(report)
    wish.check(overwrite=force, given=(base, *tuned, prompts or ""))
    pairs = match_all(base, tuned, trust_order=trust_order, config=config)
    from si_hub.distill.methods.calibrated import curve_points

    found = curve_points(pairs, request, others)
    points = tuple(CurvePoint(*one) for one in sorted(found))
    wanted = request.size
    chosen = None if wanted is None else max(point.size for point in points if point.size <= wanted)
    result = Curve(pairs[0].base.path, pairs[0].tuned.path, points, chosen, request.survey.fits)
    if is_main():
        plotted = Distillation(
            f"{pairs[0].tuned.title}: error by size",
            {"tuned": pairs[0].tuned.title, "base": pairs[0].base.title, "numbers": dtype or "fp16"},
            size=chosen,
            curve=points,
        )
        for file in wish.files:
            write_report(plotted, file, overwrite=force)
    return result


def compare(
    base: str | Path,
    *tuned: str | Path,
    dtype: str | None = None,
    work: str | Path | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    device: str | None = None,
    config: str | Path | None = None,
    trust_order: bool = False,
    progress: Progress | None = None,
    force: bool = False,
    pictures: int = 0,
    **options: Any,
) -> Sharing:
    """The sharing report of several tuned models; no adapter is made.

    Args:
        base, tuned, dtype, work, seed, prompts, device, config, trust_order, progress: as for `si_hub.distill.distill`.
        force, pictures: of no use here, and harmless.
        options: of the method ``calibrated``, and ``branches``.

    Raises:
        SiHubError: as `si_hub.distill.distill`.
        CannotRun: the base's pipeline cannot be run, so nothing can be said of what is felt.
    """
    for name in NO_SHARING:
        if options.pop(name, None):
            raise UsageError("what is shared is told before an adapter is made", key=label(name), hint="Leave it out.")
    if len(tuned) < 2:
        raise UsageError("sharing takes two tuned models or more", found=len(tuned))
    request = Request.of(
        "calibrated", tuned, dtype=dtype, seed=seed, prompts=prompts, device=device,
        progress=progress, options=options,
    )  # fmt: skip
    pairs = match_all(base, tuned, trust_order=trust_order, config=config)
    from si_hub.distill.methods.several import Teachers
    from si_hub.work.processes import processes

    beside = output_of(Path(tuned[0]), None)
    store = Work(Path(work) if work else beside.with_name(f".{beside.name}.sharing.work"))
    crew = processes(request.device)
    with store.hold() if crew.main else nullcontext():
        if crew.main:
            store.open({"sharing": [str(path) for path in tuned]})
        crew.wait()
        try:
            teachers = Teachers(pairs, request, store)
            return teachers.sharing(teachers.commons())
        finally:
            crew.wait()
            if crew.main:
                store.clear()
