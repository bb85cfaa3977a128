"""Many changed files tried, over several processes, and what came of them."""

from __future__ import annotations

import faulthandler
import multiprocessing
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.trial import Finding, Trial
from tests.systems import peak_memory

#: Findings of one process that are told; more are the same mistake.
TOLD = 20
#: Seconds after which five hundred inputs hang, and the stack is shown: a machine may be busy with other things too.
HANGING = 300
#: Bytes this process held at its most before its first input: Python with its libraries, and the tables of base models.
_at_rest: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of some inputs.

    Attributes:
        memory: bytes a process held at its most.
        grown: how much of that came after Python, its libraries and the tables of base models.
    """

    inputs: int = 0
    accepted: int = 0
    findings: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    memory: int = 0
    grown: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


def fuzz(numbers: Iterable[int], seed: int) -> Outcome:
    """Try these inputs in this process; files lie in memory where the system has such a folder."""
    global _at_rest
    warnings.simplefilter("ignore")
    memory = Path("/dev/shm")
    outcome = Outcome()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="si-hub-fuzz-") as folder:
        trial = Trial(Path(folder), seed)
        _at_rest = _at_rest or peak_memory()
        for number in numbers:
            if outcome.inputs % 500 == 0:
                faulthandler.dump_traceback_later(HANGING, exit=True)
            before = trial.slowest[0]
            try:
                trial.run(number)
            except Finding as error:
                outcome.findings.append(f"{number}: {error}")
            except Exception:
                outcome.findings.append(f"{number}: {traceback.format_exc()}")
            if trial.slowest[0] > before:
                outcome.slowest = (trial.slowest[0], f"{trial.slowest[1]} of {number}")
            outcome.inputs += 1
        faulthandler.cancel_dump_traceback_later()
        outcome.accepted = trial.accepted
    outcome.memory = peak_memory()
    outcome.grown = outcome.memory - _at_rest
    return outcome


def _fuzz_share(share: tuple[range, int]) -> Outcome:
    return fuzz(*share)


def run(inputs: int, processes: int, seed: int) -> Outcome:
    """All inputs 0 … ``inputs`` - 1, every process taking its share of each kind of file."""
    # Shares of consecutive numbers: each holds all kinds, and a finding shows up while the rest goes on.
    size = max(1, min(20_000, -(-inputs // processes)))
    shares = [(range(start, min(start + size, inputs)), seed) for start in range(0, inputs, size)]
    total = Outcome()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for outcome in pool.imap_unordered(_fuzz_share, shares):
            total.inputs += outcome.inputs
            total.accepted += outcome.accepted
            total.findings += outcome.findings
            total.slowest = max(total.slowest, outcome.slowest)
            total.memory = max(total.memory, outcome.memory)
            total.grown = max(total.grown, outcome.grown)
            for finding in outcome.findings[:TOLD]:
                print(finding, flush=True)
            if total.inputs % 100_000 == 0:
                print(f"{total.inputs:,} inputs, {len(total.findings)} findings", file=sys.stderr, flush=True)
    return total
