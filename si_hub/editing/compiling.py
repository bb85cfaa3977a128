"""Several adapters compiled into one of a chosen size: spent where the predicted noise feels it, by the distiller.

The exact sum is fused into a copy of the base, in float32, and what that changes is distilled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from si_hub import format as file_format
from si_hub.adapter import Adapter
from si_hub.distill.command import distill
from si_hub.distill.result import Distilled
from si_hub.editing.fusing import fuse
from si_hub.errors import UsageError
from si_hub.storage.leftovers import TEMPORARY_PREFIX
from si_hub.words import label


def compile_sum(
    merged: Adapter,
    base: str | Path,
    output: Path,
    *,
    rank: int | None = None,
    size: int | None = None,
    prompts: str | Path | None = None,
    device: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Distilled:
    """Write the adapter within a budget that predicts what the sum does, as nearly as can be.

    Args:
        merged: the exact sum, of one branch.
        base: folder of the base model's pipeline, which is run.
        output: the file to write.
        rank, size: the budget, one of them: a rank for all layers, or bytes of the file at most.
        prompts: a file of prompts to weigh layers with, one a line.
        device: to run on.

    Raises:
        UsageError: no budget, or two.
        CannotRun: a base whose pipeline cannot be run.
        SiHubError: everything of `si_hub.distill.distill` and `si_hub.editing.fusing.fuse`.
    """
    if (rank is None) == (size is None):
        raise UsageError("say one of them", key=f"{label('rank')}, {label('size')}")
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=TEMPORARY_PREFIX) as folder:
        place = Path(folder)
        file_format.write(merged, place / "sum.safetensors")
        fuse(place / "sum.safetensors", base, place / "fused", wide=True)
        found = distill(
            base, place / "fused", output=place / "compiled.safetensors", method="calibrated", rank=rank, size=size,
            prompts=prompts, device=device, progress=progress,
        )  # fmt: skip
        adapter = file_format.read(place / "compiled.safetensors")
        about = {**merged.about, "fidelity": adapter.about["fidelity"]}
        about["provenance"] = {**merged.about["provenance"], "error": adapter.about["provenance"]["error"]}
        about["provenance"].pop("exact", None)
        file_format.write(replace(adapter, about=about), output, overwrite=force)
    return found
