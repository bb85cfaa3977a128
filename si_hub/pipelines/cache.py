"""Adapters that are loaded when a request names them, and unloaded when others need their room."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch

from si_hub import tuner
from si_hub.adapter import Adapter
from si_hub.errors import UsageError
from si_hub.pipelines import loading, padding, registry, sources
from si_hub.pipelines.converting import convert_for_pipeline
from si_hub.pipelines.offload import TURN, in_turn, is_offloaded
from si_hub.pipelines.running import changing, names_in_use, wait_for_an_end, wait_until_free
from si_hub.storage.access import tell_access_errors
from si_hub.tokens import conceal
from si_hub.words import keep_words

AdapterSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, torch.Tensor] | Adapter"
_CACHE = "styleinject_cache"


@dataclass(slots=True)
class _Ready:
    """An adapter that was read, with its numbers in memory, and the bytes that it will take."""

    loaded: sources.Loaded
    values: loading.ReadTensors
    nbytes: int


@dataclass(slots=True)
class _Entry:
    """An adapter that may be loaded.

    Attributes:
        pending: its reading, which some thread is at, or which failed and was not told yet.
        ready: what was read, until it is loaded.
        nbytes: what it takes while it is loaded by the cache; None else.
    """

    source: AdapterSource
    fetch: sources.Fetch
    convert: bool | str | os.PathLike[str]
    strict: bool
    allowed: tuple[str, ...]
    pending: Future[None] | None = None
    ready: _Ready | None = field(default=None, repr=False)
    nbytes: int | None = None


class AdapterCache:
    """The adapters of a pipeline's models that requests load by naming them, within a number of bytes.

    A request (``pipe.styleinject(...)``, of this pipeline or another one on the same models) that names one loads it
    first, where it is not loaded, and unloads those that were not asked for the longest. What a running request uses is
    never unloaded, nor what was made active or fused for the whole pipeline; a request that finds no room waits for
    others to end. Adapters that were loaded otherwise are left alone, and do not count.

    Args:
        pipe: the pipeline; its models know the cache until `close`.
        max_bytes: what the adapters may take in the models together.

    Raises:
        UsageError: the models have a cache already, or no byte is allowed.
    """

    def __init__(self, pipe: Any, max_bytes: int) -> None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
            raise UsageError("a cache has a number of bytes", key="max_bytes", found=repr(max_bytes))
        self.max_bytes = max_bytes
        self._pipe = pipe
        self._entries: dict[str, _Entry] = {}
        self._reader: ThreadPoolExecutor | None = None
        with TURN:
            if cache_of(pipe) is not None:
                raise UsageError("the pipeline has a cache of adapters already", hint="close() it first")
            for model in registry.models(pipe).values():
                model.__dict__[_CACHE] = self

    @in_turn
    def add(
        self,
        name: str,
        source: AdapterSource,
        *,
        weight_name: str | None = None,
        subfolder: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool | None = None,
        token: str | bool | None = None,
        convert: bool | str | os.PathLike[str] = True,
        strict: bool = True,
        allow_components: Sequence[str] = (),
    ) -> None:
        """Let requests name an adapter; nothing is read yet.

        The arguments are those of ``load_styleinject_weights``.

        Raises:
            UsageError: the name is in use, or none for an adapter.
        """
        loading.check_new_name(self._pipe, name)
        if name in self._entries:
            raise UsageError("the cache has an adapter of this name", key=name)
        place = None if cache_dir is None else Path(cache_dir)
        fetch = sources.Fetch(weight_name, subfolder, revision, place, False, local_files_only, conceal(token))
        self._entries[name] = _Entry(source, fetch, convert, strict, tuple(allow_components))

    @in_turn
    def prefetch(self, name: str) -> Future[None]:
        """Read an adapter in the background, and load it where there is room that no request uses.

        Returns:
            What is done when that is. Its error is also that of the next request that names the adapter.

        Raises:
            UsageError: no such adapter in the cache.
        """
        entry = self._entry(name)
        if entry.pending is None or entry.pending.done():
            entry.pending = Future()
            if name in registry.by_name(self._pipe) or entry.ready is not None:
                entry.pending.set_result(None)
            else:
                if self._reader is None:
                    self._reader = ThreadPoolExecutor(1, thread_name_prefix="styleinject")
                self._reader.submit(keep_words(self._read), name, entry, entry.pending, attach=True)
        return entry.pending

    @property
    def names(self) -> list[str]:
        """All that were added; those not asked for the longest first."""
        with TURN:
            return list(self._entries)

    @property
    def loaded(self) -> list[str]:
        """Those that are loaded by the cache; those not asked for the longest first."""
        with TURN:
            return list(self._sizes())

    @property
    def nbytes(self) -> int:
        """What those that are loaded take in the models."""
        with TURN:
            return sum(self._sizes().values())

    @in_turn
    def remove(self, name: str) -> None:
        """Forget an adapter; where the cache has loaded it, it is unloaded once no request uses it.

        Raises:
            UsageError: no such adapter in the cache.
        """
        self._entry(name)
        if name in self._sizes():
            self._unload(name)
        self._entries.pop(name, None)

    def close(self) -> None:
        """From now on requests load nothing; what is loaded stays so."""
        with TURN:
            for model in registry.models(self._pipe).values():
                if model.__dict__.get(_CACHE) is self:
                    del model.__dict__[_CACHE]
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.shutdown()

    # What requests call.

    def prepare(self, names: Sequence[str]) -> None:
        """Read those of the named adapters that are not loaded; `TURN` is not held, so that others go on meanwhile.

        Raises:
            SiHubError: as ``load_styleinject_weights``, from whichever thread has read it.
        """
        with TURN:
            missing = self._entries.keys() & set(names) - registry.by_name(self._pipe).keys()
            if missing and is_offloaded(self._pipe):
                wait_until_free(self._pipe)  # or it is told: reading would wait for this very thread
        for name in names:
            with TURN:
                entry = self._entries.get(name)
                if entry is None or entry.ready is not None or name in registry.by_name(self._pipe):
                    continue
                known = entry.pending
                # One that failed is told once; one that is done was for a load that has been undone since.
                own = known is None or (known.done() and known.exception() is None)
                pending = entry.pending = Future() if known is None or own else known
            if own:
                self._read(name, entry, pending, attach=False)
            try:
                pending.result()
            finally:
                with TURN:
                    entry.pending = None if entry.pending is pending else entry.pending

    def bring(self, pipe: Any, names: Sequence[str]) -> None:
        """Load the named adapters of the cache; `TURN` is held, and was not let go since the last one was loaded.

        Raises:
            UsageError: they are larger than the cache; or what is in the way is used by a request that this thread is
                in, or made active or fused for the whole pipeline.
            SiHubError: as ``load_styleinject_weights``.
        """
        own = [name for name in dict.fromkeys(names) if name in self._entries]
        for name in own:
            self._entries[name] = self._entries.pop(name)
        while missing := [name for name in own if name not in registry.by_name(self._pipe)]:
            if is_offloaded(self._pipe):
                wait_until_free(self._pipe)
            for name in missing:
                self._finish(name)
            # While it waits, others may unload what was there, or load what was missing.
            waits = not self._make_room(own, wait=False) and self._make_room(own, wait=True)
            for name in () if waits else missing:
                self._attach(name)
        self._check_shared(pipe, own)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """A copy of a model has no cache."""
        return type(None), ()

    # Below, `TURN` is held but while reading.

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            known = ", ".join(self._entries) or "none was added"
            raise UsageError("no such adapter in the cache", key=name, expected=known)
        return self._entries[name]

    def _sizes(self) -> dict[str, int]:
        present = registry.by_name(self._pipe)
        for name, entry in self._entries.items():
            if name not in present:
                entry.nbytes = None
        return {name: entry.nbytes for name, entry in self._entries.items() if entry.nbytes is not None}

    def _read(self, name: str, entry: _Entry, done: Future[None], attach: bool) -> None:
        try:
            with tell_access_errors():
                found = sources.adapter_from(entry.source, entry.fetch, None, entry.convert)
            ready = self._look_at(name, found) if isinstance(found, sources.Loaded) else None
            with TURN:
                if self._entries.get(name) is entry and name not in registry.by_name(self._pipe):
                    entry.ready = ready or self._convert(name, entry, found)
                    # With offload hooks it would wait for every request.
                    if attach and not is_offloaded(self._pipe) and self._make_room([name], wait=False):
                        self._attach(name)
        except BaseException as error:  # whoever asks for it next is told
            done.set_exception(error)
        else:
            done.set_result(None)

    def _convert(self, name: str, entry: _Entry, found: sources.Loaded | sources.FoundAdapter) -> _Ready:
        """Somebody else's adapter, whose base is the pipeline itself."""
        assert isinstance(found, sources.FoundAdapter)
        with tell_access_errors(), changing(self._pipe, ()):
            return self._look_at(name, convert_for_pipeline(self._pipe, found, entry.convert, strict=entry.strict))

    def _look_at(self, name: str, loaded: sources.Loaded) -> _Ready:
        """Its numbers read and looked at, its bytes counted."""
        models = registry.models(self._pipe)
        components = loaded.adapter.components.items()
        if any(content.embeddings for _, content in components):
            raise UsageError(
                "textual inversions act in every prompt, so they do not come and go", key=name, file=loaded.source,
                hint="Load it for good: load_styleinject_weights()",
            )  # fmt: skip
        padded = {part for part, model in models.items() if padding.is_padded(model)}
        values = loading.read_finite(loaded.adapter, loaded.source, models.keys() - padded)
        here = {part: content for part, content in components if part in models}
        sized = {p: padding.pad(models[p], content, p) if p in padded else content for p, content in here.items()}
        return _Ready(loaded, values, sum(tuner.needed_bytes(models[part], one) for part, one in sized.items()))

    def _finish(self, name: str) -> None:
        """Read now what was unloaded, or never read, between `prepare` and `bring`."""
        entry = self._entries[name]
        if entry.ready is None:
            done: Future[None] = Future()
            self._read(name, entry, done, attach=False)
            done.result()

    def _make_room(self, wanted: Sequence[str], wait: bool) -> bool:
        """Unload until there is room for those wanted that are ready; False where there is none without waiting."""
        while True:
            sizes = self._sizes()
            ready = {name: one.ready.nbytes for name, one in self._entries.items() if name in wanted and one.ready}
            needed = {name: size for name, size in (sizes | ready).items() if name in wanted}
            if sum(needed.values()) > self.max_bytes:
                for name in ready:
                    self._entries[name].ready = None
                raise UsageError(
                    "larger than the cache of adapters", key=", ".join(needed),
                    expected=f"at most {self.max_bytes} bytes", found=f"{sum(needed.values())} bytes",
                    hint="Raise max_bytes=",
                )  # fmt: skip
            others = {name: size for name, size in sizes.items() if name not in needed}
            if sum(needed.values()) + sum(others.values()) <= self.max_bytes:
                return True
            used = names_in_use(self._pipe) | _standing(self._pipe)
            idle = next((name for name in others if name not in used), None)
            if idle is not None:
                self._unload(idle)
            elif not wait:
                return False
            else:
                wait_for_an_end(self._pipe, others)

    def _unload(self, name: str) -> None:
        with changing(self._pipe, [name]):
            loading.unload_adapters(self._pipe, [name])
        self._entries[name].nbytes = None

    def _check_shared(self, pipe: Any, names: Iterable[str]) -> None:
        """Raises UsageError where an adapter is in a model that another pipeline does not share."""
        own, theirs, owners = registry.models(self._pipe), registry.models(pipe), registry.by_name(self._pipe)
        for name in names:
            for part in owners[name]:
                if theirs.get(part) is not own[part]:
                    raise UsageError(
                        "the cache loads into a model that this pipeline does not share", key=f"{name}, {part}",
                        hint="Give this pipeline the other one's models, or load the adapter into it for good",
                    )  # fmt: skip

    def _attach(self, name: str) -> None:
        entry = self._entries[name]
        assert entry.ready is not None
        ready, entry.ready = entry.ready, None
        with changing(self._pipe, ()):
            loading.load_adapter(
                self._pipe, ready.loaded.adapter, name, source=ready.loaded.source, low_cpu_mem_usage=True,
                strict=entry.strict, allowed=entry.allowed, values=ready.values, active=False,
            )  # fmt: skip
        entry.nbytes = ready.nbytes


def cache_of(pipe: Any) -> AdapterCache | None:
    """The cache that a pipeline's models have."""
    found = (model.__dict__.get(_CACHE) for model in registry.models(pipe).values())
    return next((cache for cache in found if isinstance(cache, AdapterCache)), None)


def _standing(pipe: Any) -> set[str]:
    """Adapters that are active or fused for the whole pipeline."""
    states = (tuner.adapters(model) for model in registry.models(pipe).values())
    return {name for each in states for name, state in each.items() if state.active or state.fused is not None}
