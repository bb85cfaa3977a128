"""What every method of distilling is asked for and gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from si_hub.adapter import Component
from si_hub.distill.pairs import Pair
from si_hub.distill.work import Work
from si_hub.errors import UsageError
from si_hub.report.progress import Progress

#: Method → module with ``run(pairs, request) -> Outcome``, in the order of what they cost.
METHODS: dict[str, str] = {
    "svd": "si_hub.distill.svd",
    "calibrated": "si_hub.distill.calibrated",
    "trained": "si_hub.distill.trained",
}
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


@dataclass(slots=True)
class Outcome:
    """What a method made.

    Attributes:
        components: the adapter's layers.
        error: relative error, what the method measures best: of the weight difference, or of the predicted noise.
        carried: share of each component's squared weight difference that the adapter holds.
        left_out: ``component.module`` → why it is not carried.
        fidelity, training: fields of the adapter's document.
        notes: what the user should know.
        branches: names of the layers' branches, where they have several.
    """

    components: dict[str, Component]
    error: float
    carried: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    branches: tuple[str, ...] = ()


Run = Callable[[Sequence[Pair], Request], Outcome]


def check_method(name: str) -> None:
    """Raise UsageError where there is no such method; nothing is imported."""
    if name not in METHODS:
        raise UsageError("no such method", key=name, expected=", ".join(METHODS))


def method(name: str) -> Run:
    """The function that runs a method.

    Raises:
        UsageError: no such method.
    """
    check_method(name)
    run: Run = import_module(METHODS[name]).run
    return run


def calls(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of the pipeline's call that a run's options set."""
    return {call: options[name] for name, several in CALLS.items() if name in options for call in several}
