"""The end of a tensor's name: what the tensor is to its module, and in whose spelling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

#: PEFT's in-memory names carry the adapter's name before these: ``lora_A.default.weight``.
_TAILS = (".weight", ".bias", "")


class Suffix(NamedTuple):
    """What a suffix says.

    Attributes:
        slot: of the module, that the tensor fills.
        spelling: whose it is.
        named: PEFT's in-memory names have the adapter's name inside it.
    """

    slot: str
    spelling: str
    named: bool = False


class Key(NamedTuple):
    """A tensor's name taken apart."""

    stem: str
    slot: str
    spelling: str
    adapter: str


def spell(spelling: str, *, named: bool = False, **suffixes: str) -> dict[str, Suffix]:
    """Suffixes by their text; the value of each slot's keyword is one text or several, parted by spaces."""
    return {text: Suffix(slot, spelling, named) for slot, texts in suffixes.items() for text in texts.split()}


class Suffixes(Mapping[str, Suffix]):
    """Every known suffix by its text. A name is cut at the longest one that fits.

    Raises:
        ValueError: two tables give one text different meanings.
    """

    def __init__(self, tables: Iterable[Mapping[str, Suffix]]) -> None:
        self._table: dict[str, Suffix] = {}
        for table in tables:
            for text, suffix in table.items():
                if self._table.setdefault(text, suffix) != suffix:
                    raise ValueError(f"{text} is {self._table[text]} and {suffix}")
        self._dots = max(text.count(".") + suffix.named for text, suffix in self._table.items())
        # Suffixes that do not begin at a dot.
        self._inner = tuple(text for text in self._table if not text.startswith("."))
        self.split = lru_cache(maxsize=1 << 15)(self._split)

    def __getitem__(self, text: str) -> Suffix:
        return self._table[text]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def _split(self, name: str) -> Key | None:
        """Take a tensor's name apart; ``None`` where no known suffix ends it."""
        for at in self._cuts(name):
            rest = name[at:]
            if suffix := self._table.get(rest):
                return Key(name[:at], suffix.slot, suffix.spelling, "")
            if found := self._read_named(rest):
                suffix, adapter = found
                return Key(name[:at], suffix.slot, suffix.spelling, adapter)
        return None

    def _read_named(self, rest: str) -> tuple[Suffix, str] | None:
        """The suffix that ``rest`` is with an adapter's name inside, and that name."""
        for tail in _TAILS:
            head, dot, adapter = rest.removesuffix(tail).rpartition(".")
            if rest.endswith(tail) and dot and adapter and (suffix := self._table.get(head + tail)) and suffix.named:
                return suffix, adapter
        return None

    def _cuts(self, name: str) -> list[int]:
        """Where a suffix can begin, the longest first: at one of the last dots, or inside the word before them."""
        cuts: list[int] = []
        at = len(name)
        while len(cuts) < self._dots and (at := name.rfind(".", 0, at)) >= 0:
            cuts.append(at)
        cuts += [len(name) - len(text) for text in self._inner if name.endswith(text)]
        return sorted(cuts)
