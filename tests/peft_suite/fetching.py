"""PEFT's own tests, out of the sdist of the version that is installed, and what they import."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
#: What the folder of PEFT's tests is called where it lies: `tests` is the project's own.
PACKAGE = "peft_tests"


def _pip(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, words)], check=True)


def fetch_suite(build: Path) -> Path:
    """PEFT's tests as ``BUILD/VERSION/peft_tests``, and ``BUILD/site`` with what they import; fetched once.

    Returns:
        The folder of the version.
    """
    installed = version("peft")
    folder = build / installed
    if not (build / "site").is_dir():
        _pip("install", "--no-deps", "--target", build / "site", "--requirement", REQUIREMENTS)
    if not (folder / PACKAGE).is_dir():
        _pip("download", "--no-deps", "--no-binary", "peft", "--dest", folder, f"peft=={installed}")
        with tarfile.open(next(folder.glob("peft-*.tar.gz"))) as archive:
            inner = f"peft-{installed}/tests/"
            archive.extractall(folder, [m for m in archive if m.name.startswith(inner)], filter="data")
        (folder / inner / "__init__.py").touch()
        (folder / inner).rename(folder / PACKAGE)
    return folder
