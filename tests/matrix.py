"""README, top to bottom, from the built wheel in empty environments: ``make matrix``.

A row is a Python and whether the libraries are the oldest that pyproject.toml supports or the newest that pip finds.
For each an environment is made in ``build/matrix``, the wheel installed into it with its extras, and
``tests/test_readme.py`` run, in an empty folder, with that environment's interpreter: every block of README, the demo,
and the report without its extra. A row that cannot be installed says so; nothing is left out of the table.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.places import ROOT
from website.oldest import oldest

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
SHOWN = ("torch", "diffusers", "transformers", "peft", "huggingface_hub")
MOST = 3600


@dataclass(frozen=True)
class Row:
    """An environment: an interpreter, and which libraries."""

    python: Path
    version: str
    libraries: str

    @property
    def folder(self) -> Path:
        return ROOT / "build" / "matrix" / f"{self.version}-{self.libraries}"

    @property
    def own(self) -> Path:
        """The environment's interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pythons() -> Iterator[tuple[str, Path]]:
    """The supported interpreters of this machine that start, oldest first: on the path, or pyenv's."""
    for version in PYTHONS:
        named = shutil.which(f"python{version}")
        found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        for one in [*found, *([Path(named)] if named else [])]:
            asked = subprocess.run([one, "-c", "import venv"], capture_output=True, check=False)
            if asked.returncode == 0:
                yield version, one
                break


def rows(chosen: Sequence[str], libraries: Sequence[str]) -> list[Row]:
    """The oldest and the newest of the interpreters, or those that are chosen, with each choice of libraries."""
    found = dict(pythons())
    wanted = list(chosen) or list(dict.fromkeys([min(found, key=_number), max(found, key=_number)]))
    missing = [version for version in wanted if version not in found]
    if missing:
        sys.exit(f"no Python {', '.join(missing)} on this machine; there are {', '.join(found)}")
    return [Row(found[version], version, kind) for version in wanted for kind in libraries]


def _number(version: str) -> int:
    return int(version.partition(".")[2])


def build_wheel() -> Path:
    """The wheel, newly built by this interpreter's ``build``."""
    folder = ROOT / "build" / "matrix" / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT])
    [wheel] = folder.glob("*.whl")
    return wheel


def _run(command: Sequence[str | Path], **more: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=MOST, **more  # type: ignore[call-overload]
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip()[-2000:])
    return done  # type: ignore[no-any-return]


def install(row: Row, wheel: Path) -> None:
    """An empty environment with the wheel and what the tests need."""
    shutil.rmtree(row.folder, ignore_errors=True)
    _run([row.python, "-m", "venv", row.folder])
    command: list[str | Path] = [row.own, "-m", "pip", "install", "--quiet", f"{wheel}[all,test]"]
    if row.libraries == "oldest":
        constraints = row.folder / "oldest.txt"
        constraints.write_text("\n".join(oldest()), encoding="utf-8")
        command += ["--constraint", constraints]
    else:
        command += ["--upgrade", "--upgrade-strategy", "eager"]
    _run(command)


def versions(row: Row) -> dict[str, str]:
    script = f"from importlib.metadata import version\nfor n in {SHOWN!r}: print(n, version(n))"
    return dict(line.split() for line in _run([row.own, "-c", script]).stdout.splitlines())


def try_readme(row: Row) -> str:
    """What pytest says at its end of README in this environment."""
    empty = row.folder / "empty"
    empty.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    scripts = str(row.own.parent) + os.pathsep + environment.get("PATH", "")
    done = subprocess.run(
        [row.own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ROOT, "-c", ROOT / "pyproject.toml",
         ROOT / "tests" / "test_readme.py"],
        cwd=empty, env=environment | {"PATH": scripts}, capture_output=True, text=True, check=False, timeout=MOST,
    )  # fmt: skip
    (row.folder / "readme.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    said = done.stdout.strip().splitlines()
    return re.sub(r" in [\d.]+s.*", "", said[-1]) if said else f"exit code {done.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="3.N", help="by default oldest and newest")
    parser.add_argument("--libraries", action="append", choices=("oldest", "newest"), help="by default both")
    arguments = parser.parse_args()
    wheel = build_wheel()
    print("| Python | libraries |", " | ".join(SHOWN), "| README | minutes |")
    print("|---" * (len(SHOWN) + 4) + "|")
    good = True
    for row in rows(arguments.python, arguments.libraries or ("oldest", "newest")):
        start, found, said = time.monotonic(), dict[str, str](), ""
        try:
            install(row, wheel)
            found = versions(row)
            said = try_readme(row)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            said = "not to be installed: " + str(error).splitlines()[-1][:200]
        good &= re.fullmatch(r"\d+ passed(, \d+ (skipped|deselected))*", said) is not None
        told = [row.version, row.libraries, *(found.get(name, "–") for name in SHOWN), said]
        print("|", " | ".join(told), f"| {(time.monotonic() - start) / 60:.1f} |", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
