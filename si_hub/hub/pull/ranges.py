"""The header of a repository's safetensors file, read by ranges: what a file is, without fetching it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from si_hub.errors import BadListing, HeaderTooLarge, NetworkError, TruncatedFile
from si_hub.hub.client import TIMEOUT, About, Client
from si_hub.hub.limits import limit_for
from si_hub.hub.listing import ListedFile, Listing
from si_hub.storage.header import FIRST_READ, SafetensorsFile, header_length, parse_header
from si_hub.storage.tensors import DTYPE_SIZES, Held, Span, Tensor

#: Room for a hundred thousand tensors; no adapter has more.
REMOTE_HEADER_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a header that was read from afar says.

    Attributes:
        file: its tensors' bytes are not here, but for single numbers (alphas); those not in ``unread`` are real.
        unread: single numbers whose bytes were not read, and are zero instead.
    """

    file: SafetensorsFile
    unread: frozenset[str]


def read_header(client: Client, listing: Listing, entry: ListedFile, path: Path) -> RemoteFile:
    """Read the header of one file of a commit: one request for 100 kB, and a second where the header is longer.

    Args:
        path: what errors call the file, and where its tensors' bytes would be.

    Raises:
        HeaderTooLarge: a header over `REMOTE_HEADER_LIMIT`; nothing of it is read.
        FormatError: as `si_hub.storage.header.read_safetensors`.
        SiHubError: as `Client.call`.
    """
    head = read_range(client, listing, entry, 0, min(FIRST_READ, entry.size))
    length = header_length(head, entry.size, path)
    if length > REMOTE_HEADER_LIMIT:
        raise HeaderTooLarge(
            "the header is too large to be read from afar", file=path,
            expected=f"at most {REMOTE_HEADER_LIMIT} bytes", found=length,
        )  # fmt: skip
    if 8 + length > len(head):
        head += read_range(client, listing, entry, len(head), 8 + length)
    file = parse_header(head[8 : 8 + length], entry.size, path)
    tensors, unread = {}, set()
    for name, tensor in file.tensors.items():
        (span,) = tensor.pieces
        tensors[name] = tensor
        if tensor.count != 1 or not isinstance(span, Span):
            continue
        data = head[span.offset : span.offset + span.length]
        if len(data) < span.length:
            unread.add(name)
            data = bytes(DTYPE_SIZES[tensor.dtype])
        tensors[name] = Tensor(tensor.dtype, tensor.shape, (Held(data),))
    return RemoteFile(replace(file, tensors=tensors), frozenset(unread))


def read_range(client: Client, listing: Listing, entry: ListedFile, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of a file of a commit, and not one more.

    Raises:
        TruncatedFile: the file is shorter than the listing says.
        SiHubError: as `Client.call`.
    """
    about = About(listing.repo_id, listing.commit, entry.path)
    return client.call(_read_range, client, listing, entry, start, stop, about=about, limit=limit_for(stop))


def _read_range(client: Client, listing: Listing, entry: ListedFile, start: int, stop: int) -> bytes:
    from huggingface_hub.utils import get_session, hf_raise_for_status

    if start >= stop:
        return b""
    headers = client.headers() | {"Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
    with get_session().stream(
        "GET",
        client.url(listing.repo_id, listing.commit, entry.path),
        headers=headers,
        timeout=TIMEOUT,
        follow_redirects=True,
    ) as response:
        hf_raise_for_status(response)
        skip = start
        if response.status_code == 206:
            sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != start:
                raise NetworkError("the Hub sends other bytes than asked for", file=listing.repo_id, key=entry.path)
            if sent[2] not in ("*", str(entry.size)):
                raise BadListing(
                    "the file has another size than listed", file=listing.repo_id, key=entry.path,
                    expected=entry.size, found=sent[2],
                )  # fmt: skip
            skip = 0
        taken = bytearray()
        for chunk in response.iter_bytes():
            taken += chunk
            if len(taken) >= skip + stop - start:
                break
    wanted = bytes(taken[skip : skip + stop - start])
    if len(wanted) < stop - start:
        raise TruncatedFile(
            "ends before the bytes asked for", file=listing.repo_id, key=entry.path,
            expected=f"{stop} bytes", found=start + len(wanted),
        )  # fmt: skip
    return wanted
