"""``python -m tests.peft_suite [VARIANT ...]``: PEFT's own tests on our configurations, and what came of them.

Without names: all kinds of adapters. Two run at a time; SI_HUB_PEFT_JOBS says another number.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.peft_suite.exceptions import read_exceptions
from tests.peft_suite.fetching import PACKAGE, fetch_suite
from tests.peft_suite.words import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "peft-suite"
SETTINGS = Path(__file__).with_name("suite.ini")


def run_variant(folder: Path, name: str) -> list[dict[str, str]]:
    """PEFT's tests on one kind of adapter, in a process of its own that works in the folder of the models."""
    results = folder / f"{name}.jsonl"
    results.unlink(missing_ok=True)
    files = [folder / PACKAGE / file for file in read_exceptions().files]
    command = [
        sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "tests.peft_suite.plugin", "-p", "no:cacheprovider",
        "-c", SETTINGS, "--rootdir", folder, *files,
    ]  # fmt: skip
    paths = os.pathsep.join(map(str, (ROOT, folder, BUILD / "site")))
    ours = {"SI_HUB_PEFT_VARIANT": name, "SI_HUB_PEFT_RESULTS": str(results), "PYTHONPATH": paths}
    with (folder / f"{name}.log").open("wb") as log:
        ended = subprocess.run(
            [str(word) for word in command], cwd=folder / "models", stdout=log, stderr=subprocess.STDOUT, check=False,
            env={**os.environ, **ours, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if ended.returncode not in (0, 1) or not results.exists():
        raise SystemExit(f"{name}: pytest could not run PEFT's tests, see {log.name}")
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def build_once(folder: Path) -> None:
    """The tiny models, in a process of their own: they are another program's as far as the tests are concerned."""
    if not (folder / "models").is_dir():
        command = [sys.executable, "-m", "tests.peft_suite.models", str(folder / "building")]
        with (folder / "models.log").open("wb") as log:
            subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
        (folder / "building").rename(folder / "models")


def main(names: list[str]) -> int:
    """Run the kinds that are named, print passed, refused (by reason), failed, and what is listed for nothing."""
    start = time.monotonic()
    folder = fetch_suite(BUILD)
    build_once(folder)
    jobs = int(os.environ.get("SI_HUB_PEFT_JOBS", "2"))
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(names, pool.map(lambda name: run_variant(folder, name), names), strict=True))
    return report(folder.name, found, time.monotonic() - start)


def report(version: str, found: dict[str, list[dict[str, str]]], seconds: float) -> int:
    """Print what became of the tests, by kind of adapter; return 1 for a failure or an entry without a case."""
    outcomes = ("passed", "refused", "skipped", "failed")
    print(f"PEFT {version}: its own tests on StyleInjectConfig, {seconds:.0f} s\n")
    print(f"{'adapter':<22}" + "".join(f"{outcome:>9}" for outcome in outcomes))
    everything = [(name, result) for name, results in found.items() for result in results]
    counts = Counter((name, result["outcome"]) for name, result in everything)
    for name in found:
        print(f"{name:<22}" + "".join(f"{counts[name, outcome]:>9}" for outcome in outcomes))
    print(f"{'all':<22}" + "".join(f"{sum(counts[name, outcome] for name in found):>9}" for outcome in outcomes))
    reasons = Counter(result["reason"] for _, result in everything if result["outcome"] == "refused")
    print("\nrefused, or not for us:")
    for reason, count in reasons.most_common():
        print(f"{count:>6}  {reason}")
    failed = [(name, result) for name, result in everything if result["outcome"] == "failed"]
    for name, result in failed:
        print(f"\nFAILED {name}: {result['test']}\n    {result['reason']}")
    known = [refusal.because for name in found for refusal in read_exceptions().refusals_of(VARIANTS[name])]
    unused = sorted(set(known) - reasons.keys())
    for reason in unused:
        print(f"\nlisted, but no test ends so: {reason}")
    return 1 if failed or unused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(VARIANTS)))
