"""Progress: a bar where somebody is watching, and nothing anywhere else."""

from __future__ import annotations

import io
import os
import select
import sys

import pytest

from si_hub.report.progress import ProgressBar, progress_bar
from tests.systems import posix_alone


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "quiet"), [(io.StringIO(), False), (Terminal(), True)])
def test_nobody_watching_or_quiet_is_no_bar(stream: io.StringIO, quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar("converting", quiet=quiet) as bar:
        assert bar is None
    assert stream.getvalue() == ""


@posix_alone
@pytest.mark.parametrize(("share", "shown"), [(False, "3/4 bytes"), (True, "75%")])
def test_a_bar_says_what_is_under_way_how_far_and_what_else_there_is_to_say(
    share: bool, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    import pty

    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar("training", share=share) as bar:
            assert isinstance(bar, ProgressBar)
            bar(3, 4)
            bar.say("loss 0.25")
        # A terminal gives what it has so far, which on a loaded machine is not all of it.
        said = ""
        while select.select([leader], [], [], 0.2)[0]:
            said += os.read(leader, 1 << 16).decode()
    os.close(leader)
    for words in ("training", shown, "loss 0.25"):
        assert words in said
