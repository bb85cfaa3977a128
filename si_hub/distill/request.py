"""What a distillation is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from si_hub.distill.work.folder import Work
from si_hub.report.progress import Progress

#: Options that only an adapter of several tuned models has.
SEVERAL = ("branches", "router")


#: What an adapter's numbers may be stored as: the option's value → safetensors' name.
DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


#: Options of a run → keywords of the pipeline's call that each sets.
CALLS = {"guidance": ("guidance_scale",), "resolution": ("height", "width")}


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted.

    Attributes:
        output: the file that will be written.
        work: where unfinished parts are kept.
        rank: of every layer; ``None`` where another budget is given.
        size: bytes that the adapter may have.
        fidelity: share of the tuned model's behaviour that must be kept, 0 to 1.
        dtype: safetensors' name of the adapter's numbers.
        seed: of everything random.
        embeddings: whether large embeddings are carried whole.
        prompts: a file of prompts, one a line; ``None`` for the built-in list.
        branches: names of the tuned models, where there are several.
        options: what one method alone understands.
        progress: called with (work done, all work).
    """

    output: Path
    work: Work
    rank: int | None = None
    size: int | None = None
    fidelity: float | None = None
    dtype: str = "F32"
    seed: int = 0
    embeddings: bool = False
    prompts: Path | None = None
    branches: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None


def calls(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of the pipeline's call that a run's options set."""
    return {call: options[name] for name, several in CALLS.items() if name in options for call in several}
