"""Texts that are paths of some machine, or hold the path of a home folder, which says a user's name."""

from __future__ import annotations

import os
import re
from pathlib import Path

#: An absolute path of any system, a home folder, an address of a file.
_PLACE = re.compile(r"[/~\\]|[A-Za-z]:(?=[\\/]|$)|file:")
#: The same where a text may be anything: with something after it, or names with backslashes between them. Words of a
#: prompt such as ``ink \(style\)`` are no path.
_PATH = re.compile(
    r"/[^/\s]|~[\w.-]*[\\/]|\\\\\w|[A-Za-z]:[\\/]|file:/|\.{1,2}[\\/]|(?:[\w .-]+\\+)+[\w .-]+\\*$", re.ASCII
)
#: ``/home/NAME``, ``/Users/NAME``, ``C:\Users\NAME``, the last also with backslashes doubled, as JSON writes them; and
#: Windows' as Linux beside it sees it, ``/mnt/c/Users/NAME``. Slashes are counted: each of a million may begin one.
_HOME = re.compile(r"(?<![\w.-])(?:(?:/mnt/[a-z])?/{1,9}(?:home|Users)/+|[A-Za-z]:[\\/]+[Uu]sers[\\/]+)[^\W_][\w.-]*")
#: Folders of home folders.
_HOMES = ("home", "users")
#: This user's, where it is a shorter one (``/``), is in every address.
_SHORTEST_HOME = 4


def expand_home(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` and ``~user`` as home folders; as it is where there is no such user, or can be none."""
    try:
        return Path(os.path.expanduser(path))
    except ValueError:  # a name with a null byte
        return Path(path)


def names_a_place(text: str) -> bool:
    """Whether a name is a path of some machine: absolute, of Windows, from a home folder, or out of its own folder."""
    return bool(_PLACE.match(text)) or "\\" in text or not {".", ".."}.isdisjoint(text.split("/"))


def is_path(text: str) -> bool:
    """Whether a whole text, of which nothing is known, is a path of some machine."""
    return _PATH.match(text.strip()) is not None


def find_home(text: str) -> str | None:
    """The path of the first home folder that stands anywhere in a text: this user's, or any other's."""
    home = str(Path.home())
    if len(home) >= _SHORTEST_HOME and (own := re.search(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", text)):
        return own[0]
    found = _HOME.search(text)
    return found and found[0]


def last_name(path: str) -> str:
    """The file's or folder's name that a path of any system ends with; empty where that would say a user's name."""
    *above, name = re.split(r"[\\/]+", path.strip().rstrip("\\/"))
    says_user = path.rstrip("\\/") == str(Path.home()) or (above and above[-1].lower() in _HOMES)
    return "" if says_user or names_a_place(name) else name
