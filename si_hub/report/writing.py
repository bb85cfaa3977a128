"""A report's file: one HTML page or one PNG, written whole or not at all.

Drawing needs matplotlib (``pip install "si-hub[report]"``), which is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.report.distillation import Distillation
from si_hub.storage.files import atomic_file
from si_hub.words import switch


def _html(report: Distillation) -> bytes:
    from si_hub.report.page import page

    return page(report).encode()


def _png(report: Distillation) -> bytes:
    from si_hub.report.sheet import sheet

    return sheet(report)


#: How each kind of file is made.
WRITERS: dict[str, Callable[[Distillation], bytes]] = {".html": _html, ".png": _png}
_NEEDED = {"matplotlib": "matplotlib", "PIL": "pillow"}


def check_report_file(path: Path, *, overwrite: bool = False) -> None:
    """Everything that can be known to go wrong with a report's file before any work is done for it.

    Raises:
        UsageError: another suffix than `WRITERS` has, or matplotlib or pillow is not installed.
        MissingFile: its folder.
        FileAccessError: something in its place.
    """
    if path.suffix.lower() not in WRITERS:
        found = path.suffix or "no suffix"
        raise UsageError("is no kind of report", file=path, expected=" or ".join(WRITERS), found=found)
    if path.is_dir():
        raise FileAccessError("is a folder", file=path, hint="Name a file in it, such as report.html.")
    if path.exists() and not overwrite:
        raise FileAccessError(
            "already exists",
            file=path,
            hint=f"Overwrite it with {switch('force', python='overwrite')}, or name another.",
        )
    if not path.absolute().parent.is_dir():
        raise MissingFile("the folder does not exist", file=path.parent, hint="Create it first.")
    missing = [name for module, name in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"a report needs {' and '.join(missing)}", file=path, hint='Install it: pip install "si-hub[report]".'
        )


def write_report(report: Distillation, path: Path, *, overwrite: bool = False) -> None:
    """Write a report whole or not at all.

    Raises:
        SiHubError: as `check_report_file`, or the file cannot be written.
    """
    check_report_file(path, overwrite=overwrite)
    content = WRITERS[path.suffix.lower()](report)
    with atomic_file(path, overwrite) as file:
        file.write(content)
