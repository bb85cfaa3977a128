"""Files of a commit, fetched into a folder of their own and verified there before anybody can take them for whole.

A broken transfer goes on where it broke, within one call; what a call leaves unfinished is thrown away. Where the Hub
offers a large file by xet and `hf_xet` is installed, huggingface_hub fetches it; plain HTTP does where that fails.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from shutil import rmtree
from tempfile import mkdtemp
from threading import Thread
from typing import TYPE_CHECKING, Any

from si_hub.errors import SiHubError
from si_hub.hub.client import TIMEOUT, About, Client
from si_hub.hub.limits import limit_for
from si_hub.hub.listing import ListedFile, Listing
from si_hub.hub.pull import verify
from si_hub.report.progress import Progress
from si_hub.storage.leftovers import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, sweep_leftovers
from si_hub.words import keep_words

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

#: How often bytes of the right size and the wrong hash are fetched anew.
FRESH_STARTS = 3
#: Seconds that transfers have to notice that they are stopped.
GRACE = 1.0
#: Below this xet has nothing to gain.
XET_FROM = 16 << 20


class Stopped(BaseException):
    """Ends a transfer of which nobody waits for the result."""


class Meter:
    """Bytes that have arrived, counted by all transfers together; also the way to stop them.

    Args:
        total: bytes expected in all.
        progress: told (bytes done, all of them) from whichever thread.
    """

    def __init__(self, total: int, progress: Progress | None = None) -> None:
        self.total, self.done = total, 0
        self._progress = progress
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def add(self, count: int) -> None:
        """Count bytes; a negative count takes back those of a transfer that starts afresh."""
        if self.stopped.is_set():
            raise Stopped
        with self._lock:
            self.done += count
            if self._progress is not None:
                self._progress(self.done, self.total)


@contextmanager
def make_stage(parent: Path) -> Iterator[Path]:
    """A folder beside the target, on its file system, gone afterwards; what the killed left goes before."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(parent)
    folder = Path(mkdtemp(prefix=TEMPORARY_PREFIX, suffix=TEMPORARY_SUFFIX, dir=parent))
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def fetch_all(
    client: Client,
    listing: Listing,
    entries: Sequence[ListedFile],
    folder: Path,
    *,
    max_workers: int = 8,
    progress: Progress | None = None,
) -> list[Path]:
    """Fetch files into ``folder``, several at once, each verified; their paths, in order.

    Raises:
        ChecksumError: bytes that stay wrong.
        SiHubError: as `Client.call`. The first error stops the other transfers, as Ctrl-C does.
    """
    meter = Meter(sum(entry.size for entry in entries), progress)
    paths = [folder / f"{index}" for index in range(len(entries))]
    jobs: SimpleQueue[tuple[ListedFile, Path]] = SimpleQueue()
    ends: SimpleQueue[Exception | None] = SimpleQueue()
    for job in zip(entries, paths, strict=True):
        jobs.put(job)

    def work() -> None:
        with suppress(Empty, Stopped):
            while True:
                entry, path = jobs.get_nowait()
                try:
                    fetch_file(client, listing, entry, path, meter)
                except Exception as error:
                    ends.put(error)
                    return
                ends.put(None)

    # Nobody waits for these threads when he wants to leave: a read that hangs may take until its timeout.
    threads = [Thread(target=keep_words(work), daemon=True) for _ in range(max(1, min(max_workers, len(entries))))]
    for thread in threads:
        thread.start()
    try:
        for _ in entries:
            if (error := ends.get()) is not None:
                raise error
    except BaseException:
        meter.stopped.set()
        client.stop()
        raise
    finally:
        deadline = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    return paths


def fetch_file(client: Client, listing: Listing, entry: ListedFile, path: Path, meter: Meter) -> None:
    """Fetch one file to ``path`` and verify it.

    Raises:
        ChecksumError: bytes that stay wrong.
        SiHubError: as `Client.call`.
    """
    about = About(listing.repo_id, listing.commit, entry.path)
    by_xet = True
    for _ in range(FRESH_STARTS):
        if client.call(_receive, client, listing, entry, path, meter, by_xet, about=about, limit=limit_for(entry.size)):
            by_xet = False
            _receive_by_xet(client, listing, entry, path, meter, about)
        if verify.is_as_listed(path, entry):
            return
        meter.add(-_size(path))
        path.unlink(missing_ok=True)
    raise verify.mismatch(entry, listing.repo_id)


def _receive(client: Client, listing: Listing, entry: ListedFile, path: Path, meter: Meter, by_xet: bool) -> bool:
    """One request for what is still missing of a file; whether it should be fetched by xet instead."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, hf_raise_for_status

    start = _size(path)
    if start and start >= entry.size:
        return False  # The connection broke behind the last byte.
    headers = client.headers() | {"Accept-Encoding": "identity", constants.X_HF_DOWNLOAD_COUNTER: "1"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # The HTTP library drops the token where a redirect leads to another origin, as the one to the file server does.
    with get_session().stream(
        "GET",
        client.url(listing.repo_id, listing.commit, entry.path),
        headers=headers,
        timeout=TIMEOUT,
        follow_redirects=True,
    ) as response:
        hf_raise_for_status(response)
        if by_xet and entry.size >= XET_FROM and _offers_xet(response):
            return True
        resumes = response.status_code == 206 and _range_start(response) == start
        if not resumes:
            meter.add(-start)
            start = 0
        meter.add(0)
        with path.open("ab" if resumes else "wb") as file:
            for chunk in response.iter_bytes():
                meter.add(len(chunk))
                file.write(chunk)
                start += len(chunk)
                if start > entry.size:  # Whatever it is, it is not this file, and need not end.
                    break
    return False


def _receive_by_xet(
    client: Client, listing: Listing, entry: ListedFile, path: Path, meter: Meter, about: About
) -> None:
    """Let huggingface_hub fetch the file; where that fails, leave it to plain HTTP."""
    meter.add(-_size(path))
    path.unlink(missing_ok=True)
    counted = _Counted(meter)
    with make_stage(path.parent) as folder, suppress(SiHubError):
        arrived = client.call(
            client.api.hf_hub_download, listing.repo_id, entry.path, revision=listing.commit,
            local_dir=folder, cache_dir=folder / "none", tqdm_class=counted.bar(), about=about, waits=(), limit=None,
        )  # fmt: skip
        os.replace(arrived, path)
    counted.settle(_size(path))


class _Counted:
    """A transfer by huggingface_hub, which counts bytes twice: as they arrive and as they are put together."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.done = meter, 0

    def add(self, count: int) -> None:
        self.meter.add(count)
        self.done += count

    def settle(self, size: int) -> None:
        """Count what has arrived in the end."""
        self.add(size - self.done)

    def bar(self) -> Any:
        """A progress bar for huggingface_hub that draws nothing and stops where the meter is stopped."""
        from tqdm import tqdm

        counted = self

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *arguments: Any, **options: Any) -> None:
                options.pop("name", None)
                super().__init__(*arguments, **options | {"disable": True})

            def update(self, n: float | None = 1) -> None:
                counted.add(int(n or 0))

        return Bar


def _offers_xet(response: httpx.Response) -> bool:
    from huggingface_hub import constants

    if constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None:
        return False
    header = constants.HUGGINGFACE_HEADER_X_XET_HASH
    return any(header in passed.headers for passed in (*response.history, response))


def _range_start(response: httpx.Response) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found and response.headers.get("Content-Encoding", "identity") == "identity" else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
