"""What became of a distillation, as the plain data that a report is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from si_hub import format as file_format
from si_hub.distill.pair.matching import Pair
from si_hub.distill.request import DTYPES, WITH_FLAG, Request
from si_hub.errors import FileAccessError, UsageError
from si_hub.format.whole import to_file
from si_hub.report.distillation import Bucket, Distillation, ImageRow, LayerSpend
from si_hub.report.text import size_text
from si_hub.report.writing import check_report_file, write_report
from si_hub.storage.files import is_part
from si_hub.words import command_text, label

if TYPE_CHECKING:
    from si_hub.distill.result import Distilled


#: Kinds of prompts as the document names them → as people do.
_KINDS = {"prompt": "with a prompt", "null": "with the null prompt"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user wants to see of a distillation.

    Attributes:
        files: HTML or PNG, all of the same report.
        pictures: prompts to draw by all models.
    """

    files: tuple[Path, ...]
    pictures: int

    @classmethod
    def of(cls, files: str | Path | Sequence[str | Path], pictures: int = 0) -> Wish:
        """A wish for one file or several."""
        several = (files,) if isinstance(files, str | Path) else files
        return cls(tuple(map(Path, several)), pictures)

    def check(self, *, overwrite: bool, given: Iterable[str | Path] = ()) -> None:
        """Raise what can be known to go wrong, before any work; see `si_hub.report.writing.check_report_file`.

        Args:
            overwrite: whether files may be replaced.
            given: what never is.
        """
        given = [one for one in given if one]
        for file in self.files:
            check_report_file(file, overwrite=overwrite)
            if any(is_part(file, one) for one in given):
                raise FileAccessError("is what the report is made from", file=file, hint="Name another.")
        if self.pictures < 0:
            raise UsageError("a number of pictures is 0 or more", key=label("pictures"), found=self.pictures)

    def fulfil(self, result: Distilled, pairs: Sequence[Pair], request: Request, *, overwrite: bool) -> None:
        """Draw, and write every file."""
        if not self.files:
            return
        from si_hub.distill import drawing
        from si_hub.distill.running.assembling import why_not
        from si_hub.work.processes import processes

        shown: list[ImageRow] = []
        reason = why_not(pairs[0].base) if self.pictures else None
        if self.pictures and reason is None:
            device = processes(request.device).device
            shown = drawing.rows(
                pairs, result.path, self.pictures, file=request.prompts, seed=request.seed,
                options=request.call.keywords(), survey=request.survey, device=device,
            )  # fmt: skip
        more = {"pictures": f"none, since the base {reason}"} if reason else {}
        report = report_of(result, pairs, shown, more, made_by(result, pairs, request))
        for file in self.files:
            write_report(report, file, overwrite=overwrite)


def report_of(
    result: Distilled,
    pairs: Sequence[Pair],
    rows: Sequence[ImageRow] = (),
    more: Mapping[str, str] | None = None,
    command: str = "",
) -> Distillation:
    """The report of a written adapter.

    Args:
        result: what was written.
        pairs: base and tuned models.
        rows: pictures.
        more: facts besides.
        command: that made it.
    """
    kinds = result.fidelity.get("by_prompt", {})
    tuned, base = ", ".join(pair.tuned.title for pair in pairs), pairs[0].base.title
    made = {"Make it again": command} if command else {}
    return Distillation(
        title=f"{result.path.name}: what {tuned} changed in {base}",
        facts={**facts(result, tuned, base), **(more or {})},
        size=result.size,
        layers=layers(result, pairs),
        error=result.fidelity.get("error"),
        buckets=[Bucket(**bucket) for bucket in result.fidelity.get("by_timestep", ())],
        carried=result.carried,
        left_out=result.left_out,
        rows=rows,
        verdict=result.verdict,
        commands={"Load it": f"pipe.load_styleinject_weights({result.path.name!r})", **made},
        kinds={_KINDS[name]: error for name, error in kinds.items()},
    )


def made_by(result: Distilled, pairs: Sequence[Pair], request: Request) -> str:
    """The command that makes the same adapter, models by their names: a report is shown to others."""
    kinds = {stored: name for name, stored in DTYPES.items()}
    told: dict[str, object] = {
        "method": result.method, "rank": request.rank, "size": request.size, "fidelity": request.fidelity,
        "dtype": kinds.get(request.dtype or ""), "seed": request.seed or None,
        "prompts": request.prompts.name if request.prompts else None,
    }  # fmt: skip
    own = {name: value for name, value in request.said.items() if name != "cache"}
    told |= {name: value for name, value in own.items() if name in WITH_FLAG}
    settings = {name: value for name, value in own.items() if name not in WITH_FLAG}
    titles = [pairs[0].base.title, *(pair.tuned.title for pair in pairs)]
    return command_text(["si-hub", "distill", *titles], told, settings)


def facts(result: Distilled, tuned: str, base: str) -> dict[str, str]:
    """The head of a report, which is shown to others: the models by their names, not where they lie here."""
    return {
        "adapter": f"{result.path.name}, {size_text(result.size)}, {sum(result.modules.values())} modules",
        "tuned": tuned,
        "base": f"{base} ({result.architecture})",
        "method": f"{result.method}{f': {result.reason}' if result.reason else ''}",
        "identity": result.identity,
        **{f"warning {number}": warning for number, warning in enumerate(result.warnings, start=1)},
        **{f"note {number}": note for number, note in enumerate(result.notes, start=1)},
    }


def layers(result: Distilled, pairs: Sequence[Pair]) -> list[LayerSpend]:
    """Every changed module, what it got, as the adapter's file has it."""
    written = file_format.read(result.path).components
    found = []
    for component, model in pairs[0].base.architecture.components.items():
        held = written[component].layers if component in written else {}
        changed = {change.module for pair in pairs for change in pair.changes if change.component == component}
        for path, module in model.modules.items():
            if path in held:
                size = sum(tensor.nbytes for tensor in to_file(held[path].tensors).values())
                found.append(LayerSpend(component, path, module.kind, held[path].rank, size))
            elif path in changed:
                found.append(LayerSpend(component, path, module.kind, 0, 0))
    return found
