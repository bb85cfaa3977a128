"""What a distillation is asked for: built once from keywords, checked once, and handed on as it is.

`Request.of` is the only place that reads loose options. What they mean is in three groups, by who looks at them: the
pipeline's calls, the survey, training. Where the answer goes to is no part of the question: a preview has no output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

from si_hub.distill.pair.model import name_of
from si_hub.errors import UsageError
from si_hub.report.progress import Progress
from si_hub.report.text import size_bytes
from si_hub.words import label, option
from si_hub.work.processes import choose_device

#: What an adapter's numbers may be stored as: the option's value → safetensors' name.
DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8"}
#: Steps of a trajectory.
STEPS = 20
#: Precisions that a model is held in, and run in but on a CPU; the adapter's numbers are float32.
PRECISIONS = ("no", "fp16", "bf16")
#: Options of the survey that are words → those that they may be.
WORDS = {"precision": PRECISIONS, "memory": ("auto", "all", "blocks", "files")}
#: What finds the branch of an adapter of several tuned models.
BRANCH_ROUTERS = ("fixed", "learned")
#: Options that only an adapter of several tuned models has.
SEVERAL = ("branches", "router")
#: Options that an adapter of several tuned models has not.
ALONE = ("passes",)
#: The least that a whole number may be, where it is not 1.
LEAST = {"passes": 0}
#: Options of one method alone that the command line has a flag for; the others go by ``--set``.
WITH_FLAG = ("guidance", "resolution", "steps", "images", "precision", *SEVERAL)
#: Methods that have options of their own.
WITH_OPTIONS = ("calibrated", "trained")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How the pipeline is called; ``None`` leaves it to the pipeline.

    Attributes:
        guidance: scale of classifier-free guidance.
        resolution: side of the pictures.
    """

    guidance: float | None = None
    resolution: int | None = None

    def keywords(self) -> dict[str, Any]:
        """The keywords of the pipeline's call that are set."""
        found = {"guidance_scale": self.guidance, "height": self.resolution, "width": self.resolution}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SurveyOptions:
    """How thoroughly a pipeline is looked at.

    Attributes:
        trajectories: of the tuned model, one a prompt.
        states: of each trajectory.
        sampling_steps: of each trajectory.
        held_out: prompts that adapters are measured with, each with a trajectory of its own.
        probes: random projections of the prediction in each state.
        pieces: rank-one pieces of each layer that can be chosen.
        passes: over states, gradients and all, that fit what was chosen to the tuned model's predictions, the first
            before anything moves; 0 for none.
        batch: states at once; 0 goes by their size.
        precision: what the model is held in: ``no`` (float32), ``fp16`` or ``bf16``; it is run in it, on a CPU in
            float32. Differences of weights are float32 whatever it is.
        memory: what is held, as `si_hub.distill.running.runner.Runner` has it.
        seed: of everything random.
    """

    trajectories: int = 64
    states: int = 8
    sampling_steps: int = STEPS
    held_out: int = 32
    probes: int = 2
    pieces: int = 64
    passes: int = 6
    batch: int = 0
    precision: str = "no"
    memory: str = "auto"
    seed: int = 0

    @property
    def fits(self) -> bool:
        """Whether anything is fitted to predictions: the first pass alone moves nothing."""
        return self.passes > 1


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How an adapter is trained.

    Attributes:
        steps: of training.
        samples: of a step, on all processes together.
        part: samples that a process computes at once.
        rate: peak learning rate, as a share of each leaf's root mean square.
        average: decay of the moving average; 0 for the default of `si_hub.training.loop.Recipe`.
        walks: trajectories that the tuned model walks at a time.
        features: weight of the features' error beside that of the predicted noise; 0 leaves it out.
        images: a folder of pictures to learn from instead of the tuned model's own sampling.
        checkpointing: whether activations are computed twice to save memory.
        every: steps between two measurements; 0 for the default of the recipe.
        save_every: steps between two checkpoints.
    """

    steps: int = 600
    samples: int = 32
    part: int = 16
    rate: float = 0.05
    average: float = 0.0
    walks: int = 8
    features: float = 0.0
    images: str = ""
    checkpointing: bool = False
    every: int = 0
    save_every: int = 50

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> TrainingOptions:
        """Those of some options that are about training.

        Raises:
            UsageError: a value that makes no sense.
        """
        kinds: dict[str, type] = {one.name: type(getattr(cls(), one.name)) for one in fields(cls)}
        values = {name: _value(name, options[name], kind) for name, kind in kinds.items() if name in options}
        found = cls(**values)
        if found.average >= 1:
            raise UsageError("is a decay, below 1", key=name_option("average"), found=found.average)
        return found


def names_of(group: type) -> list[str]:
    """Names of a group's options; the seed is everybody's."""
    return [one.name for one in fields(group) if one.name != "seed"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted.

    Attributes:
        rank: of every layer; ``None`` where another budget is given.
        size: bytes that the adapter may have.
        fidelity: share of the tuned model's behaviour that must be kept, 0 to 1.
        dtype: safetensors' name of the adapter's numbers; ``None`` for the smallest that costs little enough.
        seed: of everything random.
        embeddings: whether large embeddings are carried whole.
        prompts: a file of prompts, one a line; ``None`` for the built-in list.
        branches: names of the tuned models, where there are several.
        router: one of `BRANCH_ROUTERS`, where there are several.
        call, survey, training: how the pipeline is called, looked at, and trained in.
        cache: folder of the surveys; ``None`` for the user's own.
        device: what to compute on, by torch's name; ``None`` for the machine's accelerator, or its CPU.
        said: the loose options as they were said, which unfinished work is known by.
        about: what the adapter's document says besides: title, license, trigger words.
        tell: called with a line of words as work goes on: what it will take, and what it is doing.
        progress: called with (work done, all work).
    """

    rank: int | None = None
    size: int | None = None
    fidelity: float | None = None
    dtype: str | None = None
    seed: int = 0
    embeddings: bool = False
    prompts: Path | None = None
    branches: tuple[str, ...] = ()
    router: str = BRANCH_ROUTERS[0]
    call: CallOptions = CallOptions()
    survey: SurveyOptions = SurveyOptions()
    training: TrainingOptions = TrainingOptions()
    cache: Path | None = None
    device: str | None = None
    said: Mapping[str, str] = field(default_factory=dict)
    progress: Progress | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    tell: Callable[[str], None] | None = None

    @classmethod
    def of(
        cls,
        method: str | None,
        tuned: Sequence[str | Path],
        *,
        rank: int | None = None,
        size: int | str | None = None,
        fidelity: float | None = None,
        dtype: str | None = None,
        seed: int = 0,
        embeddings: bool = False,
        prompts: str | Path | None = None,
        device: str | None = None,
        progress: Progress | None = None,
        options: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Request:
        """A request from keywords, as `si_hub.distill.distill` takes them; no model is looked at.

        Args:
            method: by name; ``None`` where it is still to be chosen: `check_for` then.
            tuned: the tuned models, whose files name the branches.
            rank, size, fidelity, dtype, seed, embeddings, prompts, device, progress: see `si_hub.distill.distill`.
            options: everything else.
            about, tell: as the attributes.

        Raises:
            UsageError: no tuned model, two budgets, an option that is not known, a value that makes no sense.
        """
        options = options or {}
        rank, size = read_rank(rank), read_size(size)
        check_budget(tuned, rank=rank, size=size, fidelity=fidelity, dtype=dtype)
        several = len(tuned) > 1
        for name in SEVERAL:
            if not several and name in options:
                raise UsageError("is for several tuned models", key=label(name), hint="Leave it out.")
        if method:
            check_known(method, options, several=several)
        call = CallOptions(**{name: options[name] for name in names_of(CallOptions) if name in options})
        for name in names_of(CallOptions) if method != "svd" else ():
            if name in options:
                check_number(name, options[name])
        looked: dict[str, Any] = {
            name: _word(name, options[name]) if name in WORDS else _whole(name, options[name])
            for name in names_of(SurveyOptions) if name in options
        }  # fmt: skip
        if several:
            looked |= dict.fromkeys(ALONE, 0)
        survey = SurveyOptions(**looked, seed=seed)
        if rank is not None:
            survey = replace(survey, pieces=max(survey.pieces, 2 * rank))
        training = TrainingOptions.of(options)
        router = str(options.get("router", BRANCH_ROUTERS[0]))
        branches: tuple[str, ...] = ()
        if several and method != "svd":
            if method == "trained":
                _check_several(training)
            if router not in BRANCH_ROUTERS:
                raise UsageError(
                    "no such router", key=name_option("router"), expected=", ".join(BRANCH_ROUTERS), found=router
                )
            branches = branch_names(str(options.get("branches", "")), [stem_of(Path(one)) for one in tuned])
        if device is not None:
            choose_device(device)
        cache = options.get("cache")
        numbers = DTYPES[dtype] if dtype else None
        return cls(
            rank, size, fidelity, numbers, seed, embeddings, Path(prompts) if prompts else None, branches, router,
            call, survey, training, Path(str(cache)) if cache else None, device,
            {name: str(options[name]) for name in sorted(options)}, progress,
            {name: value for name, value in (about or {}).items() if value}, tell,
        )  # fmt: skip

    @property
    def budgeted(self) -> bool:
        """Whether it was said how large the adapter may be, or how close it must come."""
        return (self.rank, self.size, self.fidelity) != (None, None, None)

    def check_for(self, method: str) -> None:
        """Raise UsageError for an option that the method, now that it is chosen, does not know."""
        check_known(method, self.said, several=bool(self.branches))


def check_budget(
    tuned: Sequence[str | Path],
    *,
    rank: int | None = None,
    size: int | None = None,
    fidelity: float | None = None,
    dtype: str | None = None,
) -> None:
    """Raise UsageError for a call that makes no sense, whatever the method."""
    if not tuned:
        raise UsageError("name at least one tuned model")
    if sum(value is not None for value in (rank, size, fidelity)) > 1:
        raise UsageError(
            f"{label('rank')}, {label('size')} and {label('fidelity')} are three ways to say one thing",
            hint="Give one of them.",
        )
    if fidelity is not None and not (_is_number(fidelity) and 0 < fidelity < 1):
        raise UsageError("a fidelity lies between 0 and 1", key=label("fidelity"), found=fidelity)
    if dtype is not None and dtype not in DTYPES:
        raise UsageError("no such dtype", key=label("dtype"), expected=", ".join(DTYPES), found=dtype)


def read_rank(rank: Any) -> int | None:
    """A rank as it was given, or none; UsageError for what is none."""
    if rank is None or _is_whole(rank):
        return None if rank is None else int(rank)
    raise UsageError("a rank is a whole number, 1 or more", key=label("rank"), found=rank)


def read_size(size: Any, name: str = "size") -> int | None:
    """Bytes of a size, written as a number or as people do (``40MB``), or none; UsageError for what is none.

    Args:
        size: as it was given.
        name: the option's.
    """
    if isinstance(size, str):
        with suppress(ValueError):
            return size_bytes(size)
    elif size is None or _is_whole(size):
        return None if size is None else int(size)
    raise UsageError("is no size", key=label(name), expected="bytes, or a text such as 40MB", found=size)


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number above 0; 4.0 is one."""
    return _is_number(value) and value >= 1 and float(value).is_integer()


def _is_number(value: Any) -> bool:
    """Whether a value is a number, numpy's among them."""
    return type(value) is not bool and isinstance(value, Real)


def options_of(method: str, *, several: bool) -> list[str]:
    """Names of the options that a method knows, for one tuned model or several."""
    names = names_of(CallOptions)
    if method != "svd":
        looked = [name for name in names_of(SurveyOptions) if not (several and name in ALONE)]
        names += [*looked, "cache", *(SEVERAL if several else ())]
    return sorted(names + names_of(TrainingOptions) if method == "trained" else names)


def check_known(method: str, said: Collection[str], *, several: bool) -> None:
    """Raise UsageError for the first option that a method does not know."""
    known = options_of(method, several=several)
    for name in said:
        if name not in known:
            others = [other for other in WITH_OPTIONS if name in options_of(other, several=several)]
            raise UsageError(
                f"the method {method} has no such option", key=name_option(name), expected=", ".join(known),
                hint=f"Leave it out; of the methods, {' and '.join(others)} know it." if len(others) > 1
                else f"Leave it out; only the method {others[0]} knows it." if others else None,
            )  # fmt: skip


def name_option(name: str) -> str:
    """What an error calls an option of one method alone: its flag at the command line, where it has one."""
    return label(name) if name in WITH_FLAG else name


def check_number(name: str, value: Any, *, zero: bool = False) -> None:
    """Raise UsageError for what is no number above 0, or no less than it where ``zero`` is one too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or not (value or zero):
        raise UsageError("is a positive number", key=name_option(name), found=value)


def branch_names(given: str, stems: Sequence[str]) -> tuple[str, ...]:
    """Names of the branches: those given, parted by commas, or those of the files.

    Raises:
        UsageError: too few, too many, or one twice.
    """
    names = tuple(name.strip() for name in given.split(",")) if given else tuple(stems)
    if len(names) != len(stems) or len(set(names)) != len(stems) or not all(names):
        raise UsageError(
            "every tuned model needs a name of its own", key=label("branches"),
            expected=f"{len(stems)} different names", found=", ".join(names),
            hint=f"Say them in the order of the models: {option('branches', 'ink,neon')}",
        )  # fmt: skip
    return names


def stem_of(path: Path) -> str:
    """What a model is called by its path: a file without its ending, a folder as it is."""
    name = name_of(path)
    return Path(name).stem if path.is_file() else name


def _check_several(training: TrainingOptions) -> None:
    for name in ("images", "features"):
        if getattr(training, name):
            raise UsageError("is for one tuned model", key=name_option(name), hint="Leave it out.")


def _value(name: str, value: Any, kind: type) -> Any:
    """A value as its option's kind has it."""
    if kind is bool:
        if str(value).lower() not in _BOOLEANS:
            raise UsageError("is yes or no", key=name_option(name), expected=", ".join(_BOOLEANS), found=value)
        return _BOOLEANS[str(value).lower()]
    if kind is int:
        return _whole(name, value, zero=True)
    if kind is float:
        check_number(name, value, zero=True)
    return kind(value)


def _word(name: str, value: Any) -> str:
    """One of the words that an option knows."""
    if value not in WORDS[name]:
        raise UsageError(f"no such {name}", key=name_option(name), expected=", ".join(WORDS[name]), found=value)
    return str(value)


def _whole(name: str, value: Any, *, zero: bool = False) -> int:
    """A whole number, `LEAST` or more; of a 0, ``zero`` says whether that is its only fault, or not being positive."""
    least = LEAST.get(name, 1)
    check_number(name, value, zero=zero or not least)
    if not float(value).is_integer() or value < least:
        raise UsageError(f"is a whole number, {least} or more", key=name_option(name), found=value)
    return int(value)
