"""What several tuned models have in common, before anything is decided: what ``si-hub distill --sharing`` does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from si_hub.distill.distilling import check_options, matched, output_of
from si_hub.distill.methods import DTYPES, Request
from si_hub.distill.work import Work
from si_hub.errors import UsageError
from si_hub.report.progress import Progress

if TYPE_CHECKING:
    from si_hub.distill.sharing import Sharing

#: Options of distilling that have no meaning before there is an adapter.
NOT_YET = ("output", "rank", "size", "fidelity", "method", "embeddings", "report")


def compare(
    base: str | Path,
    *tuned: str | Path,
    dtype: str = "fp32",
    work: str | Path | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    trust_order: bool = False,
    progress: Progress | None = None,
    force: bool = False,
    pictures: int = 0,
    **options: Any,
) -> Sharing:
    """The sharing report of several tuned models; no adapter is made.

    Args:
        base, tuned, dtype, work, seed, prompts, trust_order, progress: as for `si_hub.distill.distill`.
        force, pictures: of no use here, and harmless.
        options: of the method ``calibrated``, and ``branches``.

    Raises:
        SiHubError: as `si_hub.distill.distill`.
        CannotRun: the base's pipeline cannot be run, so nothing can be said of what is felt.
    """
    for name in NOT_YET:
        if options.pop(name, None):
            raise UsageError("what is shared is told before an adapter is made", key=f"--{name}", hint="Leave it out.")
    if len(tuned) < 2:
        raise UsageError("sharing takes two tuned models or more", found=len(tuned))
    check_options(tuned, dtype=dtype)
    pairs = matched(base, tuned, trust_order=trust_order)
    from si_hub.distill.processes import processes
    from si_hub.distill.teachers import Teachers

    beside = output_of(Path(tuned[0]), None)
    store = Work(Path(work) if work else beside.with_name(f".{beside.name}.sharing.work"))
    crew = processes()
    request = Request(
        Path(), store, dtype=DTYPES[dtype], seed=seed, prompts=Path(prompts) if prompts else None,
        branches=_stems(tuned), options=options, progress=progress,
    )  # fmt: skip
    with store.held() if crew.main else nullcontext():
        if crew.main:
            store.open({"sharing": [str(path) for path in tuned]})
        crew.wait()
        try:
            teachers = Teachers(pairs, request)
            return teachers.sharing(teachers.commons())
        finally:
            crew.wait()
            if crew.main:
                store.clear()


def _stems(tuned: Sequence[str | Path]) -> tuple[str, ...]:
    return tuple(Path(one).stem if Path(one).is_file() else Path(one).name for one in tuned)
