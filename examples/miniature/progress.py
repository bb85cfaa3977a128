"""Progress on stderr: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import diffusers
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
LOG_EVERY = 30.0


def hush() -> None:
    """Other libraries' progress bars and advice would bury what this is about."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


@contextmanager
def bar(title: str, total: int, start: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Yields ``show(done, note)``.

    Args:
        title: what is being done.
        total: how many steps there are.
        start: how many were done before, when work is taken up again.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
            task = progress.add_task(title, total=total, completed=start, note="")
            yield lambda done, note: progress.update(task, completed=done, note=note)
        return
    began = last = time.monotonic()

    def line(done: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LOG_EVERY or done == total:
            last = now
            pace = (now - began) / max(done - start, 1)
            print(f"{title}: {done}/{total} {note} ({pace * (total - done):.0f} s left)", file=sys.stderr, flush=True)

    yield line


def track(items: Sequence[Item], title: str) -> Iterable[Item]:
    """The items, with progress shown while they are taken."""
    with bar(title, len(items)) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done, "")
