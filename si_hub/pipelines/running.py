"""Which adapters running requests use: who would change them waits, or is told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, get_ident
from typing import Any

from torch import nn

from si_hub.errors import UsageError
from si_hub.pipelines.offload import TURN, is_offloaded, pause
from si_hub.pipelines.registry import models

#: Told whenever a request ends.
_ENDED = Condition(TURN)


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A request that has begun: its models, the adapters it names, and the thread that it runs in."""

    models: tuple[nn.Module, ...]
    names: frozenset[str]
    thread: int


_RUNNING: list[Running] = []


def begin_use(used: Iterable[nn.Module], names: Collection[str]) -> Running:
    """From now on the named adapters of these models are in use; `TURN` is held."""
    running = Running(tuple(used), frozenset(names), get_ident())
    _RUNNING.append(running)
    return running


def end_use(running: Running) -> None:
    with TURN:
        _RUNNING.remove(running)
        _ENDED.notify_all()


def _sharing(pipeline: Any) -> list[Running]:
    """The running requests on a pipeline's models."""
    own = {id(model) for model in models(pipeline).values()}
    return [running for running in _RUNNING if own & {id(model) for model in running.models}]


def names_in_use(pipeline: Any) -> set[str]:
    """The adapters of the pipeline's models that running requests use; `TURN` is held."""
    return {name for running in _sharing(pipeline) for name in running.names}


def wait_for_an_end(pipeline: Any, names: Collection[str]) -> None:
    """Wait until a request ends, since some use these adapters; `TURN` is held.

    Raises:
        UsageError: none uses them; or this very thread is in a request, which others might wait for as well.
    """
    running = _sharing(pipeline)
    if not any(one.names.intersection(names) for one in running):
        raise UsageError(
            "adapters that are active or fused leave no room for it", key=", ".join(sorted(names)),
            hint="set_styleinject_adapters([]) or unfuse_styleinject() lets them be unloaded",
        )  # fmt: skip
    if any(one.thread == get_ident() for one in running):
        raise UsageError(
            "requests leave no room for it, and this thread is in one", key=", ".join(sorted(names_in_use(pipeline))),
            hint="End the with-block first, or name all adapters in one request",
        )  # fmt: skip
    _ENDED.wait()


def wait_until_free(pipeline: Any, names: Collection[str] | None = None) -> None:
    """Wait until no request uses these adapters of the pipeline's models, or any at all (None); `TURN` is held.

    Raises:
        UsageError: a request that this very thread is in uses them, and would never end.
    """

    def users() -> list[Running]:
        return [running for running in _sharing(pipeline) if names is None or running.names & set(names)]

    while waiting := users():
        if any(running.thread == get_ident() for running in waiting):
            used = sorted({name for running in waiting for name in running.names})
            raise UsageError(
                "a request of this thread uses it", key=", ".join(used if names is None else set(names) & set(used)),
                hint="End the with-block first",
            )  # fmt: skip
        _ENDED.wait()


@contextmanager
def changing(pipeline: Any, names: Collection[str] | None = None) -> Iterator[None]:
    """Run the body alone, without offload hooks, and while no request uses the named adapters (None: any).

    Offload hooks are needed by every call, so that where there are some, all requests are waited for.

    Raises:
        UsageError: as `wait_until_free`.
        MissingFile, FileAccessError: as `si_hub.pipelines.offload.pause`.
    """
    with TURN:
        offloaded = is_offloaded(pipeline)
        if names is None or names or offloaded:
            wait_until_free(pipeline, None if offloaded else names)
        with pause(pipeline):
            yield
