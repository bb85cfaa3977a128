"""Where in the drawing of a picture a denoiser is, by the scheduler of the pipeline that runs it."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from si_hub.errors import UsageError
from si_hub.schedule import Instant

#: What denoisers call the time of a call.
_TIMES = ("timestep", "t", "timesteps", "timestep_ratio")
#: How far a time may be from the scheduler's, as a share of all of its times: half precision rounds them.
_NEAR = 0.006


class Clock:
    """The clock of one pipeline. It does not keep the pipeline alive, and copies of a model share it."""

    def __init__(self, pipeline: Any = None) -> None:
        self._pipeline = None if pipeline is None else weakref.ref(pipeline)

    def __deepcopy__(self, _: Any) -> Clock:
        return self

    def __reduce__(self) -> tuple[type[Clock], tuple[()]]:
        return Clock, ()

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Instant:
        """The instant of a call of the pipeline's denoiser.

        Raises:
            UsageError: the pipeline is gone, or its scheduler is not the one that this call's time comes from.
        """
        pipeline = None if self._pipeline is None else self._pipeline()
        scheduler = getattr(pipeline, "scheduler", None)
        if getattr(scheduler, "timesteps", None) is None:
            raise UsageError("weights by step need the scheduler of a pipeline that draws", hint=_WAY_OUT)
        return instant_of(scheduler, time_of(model, args, kwargs))


_WAY_OUT = "Draw inside of: with pipe.styleinject(): ..., with the pipeline that draws"


def is_timed(model: nn.Module) -> bool:
    """Whether a model is called with a time, as denoisers are."""
    return any(name in inspect.signature(type(model).forward).parameters for name in _TIMES)


def time_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    """The time that a denoiser is called with; the latest one where every token has its own."""
    given = inspect.signature(type(model).forward).bind_partial(model, *args, **kwargs).arguments
    time = next(given[name] for name in _TIMES if name in given)
    return float(time.max()) if isinstance(time, Tensor) else float(time)


def instant_of(scheduler: Any, time: float) -> Instant:
    """Where a scheduler is when its denoiser is called with ``time``.

    Schedulers that count their steps are believed, if the time is theirs: as it is, as a share of the times that the
    model was trained on, or one less that share. The others are looked up by it.

    Raises:
        UsageError: it is no time of this scheduler.
    """
    times = [float(one) for one in scheduler.timesteps]
    whole = float(getattr(scheduler.config, "num_train_timesteps", None) or 1000)
    place = getattr(scheduler, "step_index", None)
    place = getattr(scheduler, "begin_index", None) if place is None else place
    read = (time, time * whole, (1 - time) * whole)
    if place is None:
        place = min(range(len(times)), key=lambda index: min(abs(one - times[index]) for one in read))
    size = max(whole, *map(abs, times)) if max(map(abs, times)) > 1 else 1.0
    if place >= len(times) or min(abs(one - times[place]) for one in read) > _NEAR * size:
        raise UsageError(
            "the denoiser is not called with the time of the pipeline's scheduler", found=time, hint=_WAY_OUT
        )
    # Schedulers of second order have most times twice: a step is a time.
    distinct = list(dict.fromkeys(times))
    return Instant(distinct.index(times[place]), len(distinct), _sigma(scheduler, int(place), times[place]))


def _sigma(scheduler: Any, place: int, time: float) -> float | None:
    sigmas, signal = getattr(scheduler, "sigmas", None), getattr(scheduler, "alphas_cumprod", None)
    if sigmas is not None and len(sigmas) >= len(scheduler.timesteps):
        return float(sigmas[place])
    if isinstance(signal, Tensor):
        kept = float(signal[min(max(round(time), 0), len(signal) - 1)].to(torch.float64))
        return math.sqrt((1 - kept) / kept) if kept > 0 else math.inf
    return None
