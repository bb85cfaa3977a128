"""``python -m benchmarks.claim [--full] [--workers 2] [--work build/claim] [--docs docs]``: see the package's text."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from benchmarks.claim.methods import LINEAR, RANK
from benchmarks.claim.page import OURS, against, write_page
from benchmarks.claim.pictures import draw_grid
from benchmarks.claim.plain import plain_errors
from benchmarks.claim.plots import draw_plots
from benchmarks.claim.routers import choices
from benchmarks.claim.runs import PICTURED, SURVEYED, ground, pulls_of, set_up
from benchmarks.claim.study import FULL, QUICK, TASKS, Results, Study, reported
from si_hub.storage.files import atomic_file
from si_hub.training.dealing import deal_ranks, even_numbers

ROUTED = "fitted n=4, learned"
#: What the defaults of the code are tied to.
SUMMARY = Path(__file__).with_name("results.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more training sets and every setting")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("build/claim"))
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    options = parser.parse_args()
    start = time.monotonic()
    study = Study(options.work / "runs", options.workers, _show)
    results = study.results(FULL if options.full else QUICK)
    commands = plain_errors(study.folder, options.workers)
    plots = draw_plots(results, _ranks(), options.docs)
    grids = {task: f"claim-{task}-pictures.png" for task in results}
    with ProcessPoolExecutor(options.workers, initializer=set_up) as pool:
        for drawn in [
            pool.submit(draw_grid, task, results[task], study.folder, options.docs / name)
            for task, name in grids.items()
        ]:
            drawn.result()
    routed = results["large"][ROUTED]
    routers = choices(reported("large", ROUTED, routed.rate, routed.step, PICTURED), study.folder)
    here = ground()
    plain = here.probes(TASKS["small-16"], "report")[1].error(here.pipe.unet)
    cost = study.done, study.seconds
    page = write_page(results, plots, grids, routers, plain, SURVEYED, commands, cost)
    with atomic_file(options.docs / "CLAIM.md", True) as out:
        out.write(page.encode())
    if not options.full:
        with atomic_file(SUMMARY, True) as out:
            out.write((json.dumps(summary(results, commands), indent=1) + "\n").encode())
    print(f"{(time.monotonic() - start) / 60:.1f} minutes", file=sys.stderr)


def _show(done: int, known: int) -> None:
    """A line now and then: how many runs there will be is known only when the search is over."""
    if done % 10 == 0 or done == known:
        print(f"{done} of {known} runs so far", file=sys.stderr, flush=True)


def summary(results: Results, commands: Mapping[str, Sequence[float]]) -> dict[str, dict[str, object]]:
    """What is kept in the repository: by task and method, and the comparison with the best LoRA; and by command."""
    tasks: dict[str, object] = {
        task: {
            "against": asdict(against(found)),
            "errors": {name: [round(value, 5) for value in one.errors] for name, one in found.items()},
            "searched": {name: {f"{rate:g}": round(error, 5) for rate, error in one.searched.items()}
                         for name, one in found.items()},
            "rates": {name: one.rate for name, one in found.items()},
        }
        for task, found in results.items()
    }  # fmt: skip
    return {"tasks": tasks, "commands": {name: [round(one, 5) for one in errors] for name, errors in commands.items()}}


def _ranks() -> dict[str, int]:
    pulls = pulls_of(TASKS["small-16"], PICTURED)
    counted = {path: pull for path, pull in pulls.items() if any(path.endswith(end) for end in LINEAR)}
    dealt = deal_ranks(pulls, even_numbers(counted, RANK))
    return {path: dealt[path] for path in pulls if path in dealt}


__all__ = ["OURS", "SUMMARY", "main", "summary"]

if __name__ == "__main__":
    main()
