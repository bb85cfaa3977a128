"""One changed file given to every reader; what they say held against the safetensors library and FORMAT.md."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import safetensors
import torch  # noqa: F401 - before the clock runs: the first file whose numbers are computed would pay for it

from si_hub.adapter import Adapter
from si_hub.architectures import load
from si_hub.converters import Conversion, convert_source, open_source, outline
from si_hub.errors import SiHubError
from si_hub.format import read, validate, write
from si_hub.storage.header import read_safetensors
from tests.fuzz.cases import Case, join_bytes, lay_out, make_seeds
from tests.fuzz.mutations import mutate, write_json
from tests.fuzz.rules import judge, read_container

_LIBRARY: Any = safetensors  # its stubs leave this untyped
#: Characters of an error; more fill a terminal.
MESSAGE_LIMIT = 2500


class Finding(Exception):
    """A reader that crashed, or said something else than the rules."""


class Trial:
    """Makes the file of a number, lets everything read it, and notes the slowest call.

    Attributes:
        slowest: seconds of one processor that one call took at most, and which.
        accepted: how many files were adapters still.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.seeds = make_seeds()
        self.base = load("sd15")
        self.file = folder / "adapter_model.safetensors"
        self.config = folder / "adapter_config.json"
        self.output = folder / "out.styleinject.safetensors"
        self.slowest = (0.0, "")
        self.accepted = 0
        # Tables of base models are read once, which no input is to blame for; and what is mutated is right itself.
        for case in self.seeds:
            header, data = lay_out(case)
            config = None if case.config is None else write_json(case.config)
            before = self.accepted
            for dice in (Random(0), Random(1)):  # for any base model, and for one
                self._read_all(case, join_bytes(write_json(header), data), config, dice)
            if self.accepted == before:
                raise Finding(f"a file of kind {case.kind} is refused before anything is changed in it")
        self.slowest, self.accepted = (0.0, ""), 0

    def run(self, number: int) -> None:
        """Everything about the file of this number.

        Raises:
            Finding: what is wrong with what a reader did.
        """
        dice = Random(self.seed * 1_000_003 + number)
        case = self.seeds[number % len(self.seeds)]
        self._read_all(case, *mutate(case, dice), dice)

    def _read_all(self, case: Case, raw: bytes, config: bytes | None, dice: Random) -> None:
        self.file.write_bytes(raw)
        container, adapter = judge(raw)
        self._check_container(raw, container)
        if case.document is not None:
            self._check_adapter(raw, adapter, dice)
            return
        if config is None:
            self.config.unlink(missing_ok=True)
        else:
            self.config.write_bytes(config)
        self._check_foreign(dice)

    def _check_container(self, raw: bytes, rule: str | None) -> None:
        held = self._ask("read_safetensors", lambda: read_safetensors(self.file))
        if (held is None) != (rule is not None):
            raise Finding(f"the container is {'refused' if held is None else 'read'}; by the rules: {rule}")
        if held is None:
            return
        try:
            others = dict(_LIBRARY.deserialize(raw))
        except safetensors.SafetensorError as error:
            raise Finding(f"the safetensors library refuses what is read: {error}") from error
        ours = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in held.tensors.items()}
        if ours != {name: (entry["dtype"], list(entry["shape"])) for name, entry in others.items()}:
            raise Finding("the safetensors library reads other tensors")

    def _check_adapter(self, raw: bytes, rule: str | None, dice: Random) -> None:
        adapter = self._ask("read", lambda: read(self.file, verify=True))
        if (adapter is None) != (rule is not None):
            raise Finding(f"the adapter is {'refused' if adapter is None else 'read'}; by the rules: {rule}")
        if adapter is None:
            return
        self.accepted += 1
        if dice.random() < 0.25:
            self._ask("validate", lambda: validate(self.file))
        _compare_alphas(adapter, raw)

    def _check_foreign(self, dice: Random) -> None:
        base = self.base if dice.random() < 0.7 else None
        source: Any = self.file if not self.config.exists() else self.file.parent
        if dice.random() < 0.25:
            self._ask("outline", lambda: outline(open_source(source), base))
        found: Conversion | None = self._ask("convert", lambda: convert_source(source, base=base))
        if found is None:
            return
        self.output.unlink(missing_ok=True)
        adapter = found.adapter
        if self._ask("write", lambda: write(adapter, self.output)) is not None:
            self.accepted += 1
            if (rule := judge(self.output.read_bytes())[1]) is not None:
                raise Finding(f"what was converted breaks a rule: {rule}")

    def _ask(self, name: str, call: Callable[[], Any]) -> Any:
        """What a reader returns; ``None`` where it refuses with an error of ours that anybody can read."""
        with self._timed(name):
            try:
                return call()
            except SiHubError as error:
                said = str(error)
                if len(said) > MESSAGE_LIMIT or not said.isprintable():
                    raise Finding(f"{name} says {said[:300]!r}, {len(said)} characters") from error
                return None
            except Exception as error:
                raise Finding(f"{name}: {type(error).__name__}: {error}"[:300]) from error

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        if (taken := time.process_time() - start) > self.slowest[0]:
            self.slowest = (taken, name)


def _compare_alphas(adapter: Adapter, raw: bytes) -> None:
    """Every layer's alpha is what the file says in one of its two places."""
    header, data = read_container(raw)
    for name, component in adapter.components.items():
        for module, layer in component.layers.items():
            if not layer.rank:
                continue
            own = header.get(f"{name}.{module}.alpha")
            if own is None:
                if layer.alpha is not None and not math.isfinite(layer.alpha):
                    raise Finding(f"{module}: alpha is {layer.alpha}")
                continue
            import numpy

            wanted = numpy.frombuffer(data[slice(*own["data_offsets"])], "<f8" if own["dtype"] == "F64" else "<f4")
            if layer.alpha != float(wanted[0]):
                raise Finding(f"{module}: alpha is {layer.alpha}, in the file {wanted[0]}")
