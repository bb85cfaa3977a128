"""Progress bars for long work: on stderr, and only where somebody is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from si_hub.foreign import make_safe

#: Called with (bytes or steps done, all of them).
Progress = Callable[[int, int], None]


class ProgressBar:
    """A bar as something to call.

    Args:
        bar: rich's progress.
        task: the line of it.
    """

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def say(self, text: str) -> None:
        """Words behind the bar: a loss, an error."""
        self._bar.update(self._task, text=make_safe(text))


@contextmanager
def progress_bar(label: str, *, quiet: bool = False, share: bool = False) -> Iterator[ProgressBar | None]:
    """A bar that follows calls of what is yielded; ``None`` where stderr is no terminal or ``quiet``.

    Args:
        label: what is under way.
        quiet: show nothing.
        share: count in hundredths of the whole instead of bytes.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    count = TaskProgressColumn() if share else DownloadColumn()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        count,
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield ProgressBar(bar, bar.add_task(make_safe(label), total=None, text=""))
