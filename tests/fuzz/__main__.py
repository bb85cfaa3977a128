"""`python -m tests.fuzz`: as many changed files as are asked for, over as many processes, and what came of it.

The number of an input and the seed make it again: `python -m tests.fuzz --seed SEED --only NUMBER`.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from tests.fuzz.running import fuzz, run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one input again")
    options: Any = parser.parse_args(arguments)
    start = time.monotonic()
    if options.only is not None:
        total = fuzz([options.only], options.seed)
        print(*total.findings, sep="\n")
    else:
        total = run(options.inputs, options.processes, options.seed)
    seconds = time.monotonic() - start
    print(
        f"{total.inputs:,} inputs of seed {options.seed} in {seconds:,.0f} s ({total.inputs / seconds:,.0f} a second), "
        f"{total.accepted:,} adapters still; {len(total.findings)} findings; slowest call {total.slowest[0]:.3f} s of "
        f"a processor ({total.slowest[1]}); peak memory {total.memory / 1e6:,.0f} MB a process, "
        f"{total.grown / 1e6:,.0f} MB of it for the files"
    )
    return 1 if total.findings else 0


if __name__ == "__main__":
    sys.exit(main())
