"""README, top to bottom, from the built wheel and from a fresh clone, in empty environments: ``make matrix``.

A row is a Python and whether the libraries are the oldest that pyproject.toml supports or the newest that pip finds.
For each an environment is made in ``build/matrix``, the wheel installed into it with its extras, and
``tests/test_readme.py`` run, in an empty folder, with that environment's interpreter: every block of README, the demo,
and the report without its extra. Then the wheel makes way for a clone of this repository's last commit, installed
as ``pip install --editable`` does, and the clone's own tests of README are run in it. A row that cannot be installed
says so, in pip's words; nothing is left out of the table. Environments are removed, their logs are kept.
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
    def log(self) -> Path:
        """What its tests said, the wheel's and then the clone's."""
        return self.folder.parent / f"{self.folder.name}.log"

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
    if missing := [version for version in wanted if version not in found]:
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
    # The newest pip: an old one fetches a wheel of gigabytes to learn what it needs.
    _run([row.own, "-m", "pip", "install", "--quiet", "--upgrade", "pip"])
    command: list[str | Path] = [row.own, "-m", "pip", "install", "--quiet", f"{wheel}[all,test]"]
    if row.libraries == "oldest":
        constraints = row.folder / "oldest.txt"
        constraints.write_text("\n".join(oldest()), encoding="utf-8")
        command += ["--constraint", constraints]
    else:
        command += ["--upgrade", "--upgrade-strategy", "eager"]
    # Elsewhere than in a checkout, whose own metadata would pass for an installed si-hub.
    _run(command, cwd=row.folder)


def clone(row: Row) -> Path:
    """A fresh clone of the last commit, in the wheel's place."""
    folder = row.folder / "clone"
    _run(["git", "clone", "--quiet", ROOT, folder])
    _run([row.own, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", folder], cwd=row.folder)
    return folder


def versions(row: Row) -> dict[str, str]:
    script = f"from importlib.metadata import version\nfor n in {SHOWN!r}: print(n, version(n))"
    return dict(line.split() for line in _run([row.own, "-c", script], cwd=row.folder).stdout.splitlines())


def try_readme(row: Row, source: Path, folder: Path) -> str:
    """What pytest says at its end of a source's README, run in a folder of this environment."""
    folder.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    scripts = str(row.own.parent) + os.pathsep + environment.get("PATH", "")
    done = subprocess.run(
        [row.own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", source, "-c", source / "pyproject.toml",
         source / "tests" / "test_readme.py"],
        cwd=folder, env=environment | {"PATH": scripts}, capture_output=True, text=True, check=False, timeout=MOST,
    )  # fmt: skip
    with row.log.open("a", encoding="utf-8") as log:
        log.write(done.stdout + done.stderr)
    said = done.stdout.strip().splitlines()
    return re.sub(r" in [\d.]+s.*", "", said[-1]) if said else f"exit code {done.returncode}"


def reason(error: Exception) -> str:
    """The line of a failure that says why: pip's last error but its pointer to the manual."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = [line for line in lines if line.startswith("ERROR:") and "https://" not in line]
    return (told or lines)[-1].removeprefix("ERROR: ")[:200]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="3.N", help="by default oldest and newest")
    parser.add_argument("--libraries", action="append", choices=("oldest", "newest"), help="by default both")
    arguments = parser.parse_args()
    wheel = build_wheel()
    print("| Python | libraries |", " | ".join(SHOWN), "| README, wheel | README, clone | minutes |")
    print("|---" * (len(SHOWN) + 5) + "|")
    good = True
    for row in rows(arguments.python, arguments.libraries or ("oldest", "newest")):
        start, found, said = time.monotonic(), dict[str, str](), list[str]()
        row.log.parent.mkdir(parents=True, exist_ok=True)
        row.log.unlink(missing_ok=True)
        try:
            install(row, wheel)
            found = versions(row)
            said.append(try_readme(row, ROOT, row.folder / "empty"))
            cloned = clone(row)
            said.append(try_readme(row, cloned, cloned))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            said += ["not to be installed: " + reason(error)] * (2 - len(said))
        finally:
            shutil.rmtree(row.folder, ignore_errors=True)
        good &= all(re.fullmatch(r"\d+ passed(, \d+ (skipped|deselected))*", one) for one in said)
        told = [row.version, row.libraries, *(found.get(name, "–") for name in SHOWN), *said]
        print("|", " | ".join(told), f"| {(time.monotonic() - start) / 60:.1f} |", flush=True)
    if lacking := [version for version in PYTHONS if version not in dict(pythons())]:
        print(f"Not on this machine: Python {', '.join(lacking)}.")
    sys.exit(not good)


if __name__ == "__main__":
    main()
