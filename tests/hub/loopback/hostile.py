"""What a Hub should never send, to be committed (`HubRepository.commit` takes any name) or put in by `faults`.

repo.commit({name: "{}" for name in hostile.NAMES})
hub.fault(faults.edited(lambda info: info | {"sha": "../../outside"}), on="GET .*/revision/")
hub.fault(faults.headers(X_Repo_Commit=text, ETag=text), on="HEAD .*/resolve/")     # text of hostile.NOT_HEX
hub.fault(faults.redirect(elsewhere.url), on="GET /blob/")                          # a second LoopbackHub
repo.commit({"styleinject.safetensors": hostile.long_header(90 << 20), "README.md": hostile.long_card(10 << 20)})
"""

from __future__ import annotations

import struct

#: File names that leave the folder they are put in, are files of the system, or lie to who reads them.
NAMES = (
    "../outside.safetensors",
    "samples/../../outside.json",
    "..",
    "/outside.json",
    "//host/share/outside.json",
    "C:/outside.json",
    "C:outside.json",
    "..\\outside.json",
    "samples\\..\\..\\outside.json",
    "\\\\host\\share\\outside.json",
    "nul\0.json",
    "line\nbreak.json",
    "carriage\rreturn.json",
    "\x1b[2Jcleared.json",
    "\x7f.json",
    "\u202egnp.json",
    ".git/hooks/post-checkout.json",
    "samples//twice.json",
    "samples/./dot.json",
    "dot./x.json",
    "space /x.json",
    "CON.json",
    "file.json:stream",
    "a/" * 200 + "deep.json",
    "n" * 300 + ".json",
)

#: What stands where 40 (or 64) hexadecimal digits should.
NOT_HEX = (
    "main",
    "../../outside",
    "..",
    "/outside",
    "0" * 39,
    "0" * 41,
    "g" * 40,
    "F" * 40,
    "\uff10" * 40,
    "0" * 38 + "/x",
    "0" * 65,
)


def long_header(size: int) -> bytes:
    """A safetensors file that is all header: ``size`` bytes of well-formed JSON that says nothing."""
    return struct.pack("<Q", size) + b"{" + b" " * (size - 2) + b"}"


def false_header(size: int) -> bytes:
    """A short file whose first eight bytes announce a header of ``size`` bytes."""
    return struct.pack("<Q", size) + b'{"__metadata__":{}}'


def long_card(size: int) -> str:
    """A model card with metadata, ``size`` characters long."""
    head = "---\nlicense: mit\n---\n"
    return head + "x" * (size - len(head))
