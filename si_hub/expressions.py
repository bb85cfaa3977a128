"""A stranger's expressions, matched without ever going back: the time grows with the text, whatever they say.

Python's `re` tries one way after another, and twelve ``.*`` take it longer than anybody waits. Here all ways are
followed at once, as the bits of one integer (Glushkov's automaton), from the end of the text to its beginning.
What real configurations write is understood: characters, ``.``, classes, ``\\d``, groups, ``|``, repetition, and ``^``
and ``$`` around the whole. The rest of `re` (looking around, going back to a group) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from si_hub.errors import FormatError

#: Characters of one expression; real ones have forty.
LENGTH_LIMIT = 512
#: Characters that one expression can mean, repetitions written out.
PLACES_LIMIT = 512
#: Steps that reading one expression may take; a hundred do for a real one.
READING_LIMIT = 4096
#: Groups within groups.
NESTING_LIMIT = 20
#: Names in one table, and expressions among them; AdaLoRA's tables have a name for each module, and no expression.
NAMES_LIMIT, EXPRESSIONS_LIMIT = 10_000, 256
#: Steps that all lookups in one table may take together, about a second; real tables take some ten thousand.
STEPS_LIMIT = 3_000_000
#: A longer path is no module's: nothing matches it.
PATH_LIMIT = 1024
#: What an automaton remembers of its steps, at most.
_REMEMBERED = 1 << 14

_SPECIAL = frozenset(r"\.[](){}|*+?^$")
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_COUNT = re.compile(r"\{([0-9]{0,3})(,?)([0-9]{0,3})\}")
_CLASS = re.compile(r"\[\^?\]?(?:[^\]\[\\]|\\.)*\]")
#: Two of these in a class may come to mean something else in Python.
_RESERVED = re.compile(r"--|&&|~~|\|\|")
_ESCAPED = re.compile(r"\\[^A-Za-z0-9\n]|\\[dDwWsS]")


class UnreadableExpression(ValueError):
    """An expression outside of what is understood; says what in it."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of an expression: the places where it can begin and end (as bits), and whether it can be nothing."""

    first: int = 0
    last: int = 0
    empty: bool = True


class _Parser:
    """Reads an expression by recursive descent; of each place, what may stand there and which places come before it."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth, self.work = text, 0, 0, 0
        self.atoms: list[str] = []
        self.before: list[int] = []

    def refuse(self, why: str) -> NoReturn:
        raise UnreadableExpression(why)

    def count_work(self) -> None:
        self.work += 1
        if self.work > READING_LIMIT:
            self.refuse("repetitions of repetitions, or of what may be nothing")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def read_choice(self) -> _Piece:
        found = self.read_sequence()
        while self.peek() == "|":
            self.at += 1
            other = self.read_sequence()
            found = _Piece(found.first | other.first, found.last | other.last, found.empty or other.empty)
        return found

    def read_sequence(self) -> _Piece:
        found = _Piece()
        while self.peek() not in ("", "|", ")"):
            found = self.join(found, self.read_repeated())
        return found

    def join(self, one: _Piece, other: _Piece) -> _Piece:
        self.connect(one.last, other.first)
        return _Piece(
            one.first | other.first if one.empty else one.first,
            one.last | other.last if other.empty else other.last,
            one.empty and other.empty,
        )

    def connect(self, last: int, first: int) -> None:
        """After any of the places ``last``, any of ``first`` may come."""
        while first:
            lowest = first & -first
            self.before[lowest.bit_length() - 1] |= last
            first ^= lowest
            self.count_work()

    def read_repeated(self) -> _Piece:
        start = self.at
        piece = self.read_atom()
        low, high = self.read_times()
        if (low, high) == (1, 1):
            return piece
        end = self.at
        found = _Piece()
        # Each repetition has places of its own; one without end returns to its own beginning.
        for index in range(max(low, 1) if high is None else high):
            if index:
                self.at = start
                piece = self.read_atom()
            found = self.join(found, replace(piece, empty=piece.empty or index >= low))
        if high is None:
            self.connect(piece.last, piece.first)
        self.at = end
        return found

    def read_times(self) -> tuple[int, int | None]:
        mark = self.peek()
        if mark in _REPEATS:
            self.at += 1
            low, high = _REPEATS[mark]
        elif mark == "{":
            count = _COUNT.match(self.text, self.at)
            if count is None or not (count[1] or count[3]):
                self.refuse("a { that counts nothing")
            self.at = count.end()
            low = int(count[1] or 0)
            high = (int(count[3]) if count[3] else None) if count[2] else low
            if high is not None and high < low:
                self.refuse(f"the count {count[0]}")
        else:
            return 1, 1
        if self.peek() == "?":  # as few as possible: the same texts match
            self.at += 1
        if self.peek() in ("*", "+", "{", "?"):
            self.refuse("a repeated repetition")
        return low, high

    def read_atom(self) -> _Piece:
        char = self.peek()
        self.count_work()
        if char == "(":
            return self.read_group()
        if char in ("*", "+", "?", "{", "}", "]"):
            self.refuse(f"{char} with nothing before it")
        if char in ("^", "$"):
            self.refuse(f"{char} inside")
        if char == "[":
            found = _CLASS.match(self.text, self.at)
            if found is None or _RESERVED.search(found[0]):
                self.refuse("a class that is none")
            atom = found[0]
        elif char == "\\":
            found = _ESCAPED.match(self.text, self.at)
            if found is None:
                self.refuse(self.text[self.at : self.at + 2])
            atom = found[0]
        else:
            atom = char
        self.at += len(atom)
        return self.place(atom)

    def read_group(self) -> _Piece:
        self.at += 1
        if self.peek() == "?":
            if not self.text.startswith("?:", self.at):
                self.refuse(f"({self.text[self.at : self.at + 2]}")
            self.at += 2
        self.depth += 1
        if self.depth > NESTING_LIMIT:
            self.refuse(f"more than {NESTING_LIMIT} groups within groups")
        found = self.read_choice()
        if self.peek() != ")":
            self.refuse("a ( without its )")
        self.at += 1
        self.depth -= 1
        return found

    def place(self, atom: str) -> _Piece:
        """One more place, where the one character ``atom`` describes stands."""
        if len(self.atoms) == PLACES_LIMIT:
            self.refuse(f"more than {PLACES_LIMIT} characters, repetitions written out")
        self.atoms.append(atom)
        self.before.append(0)
        bit = 1 << (len(self.atoms) - 1)
        return _Piece(bit, bit, False)


class Expression:
    """A regular expression, or the part of that language that can be followed without going back.

    Attributes:
        steps: that all its matches have taken, one for every place that was looked at.

    Raises:
        UnreadableExpression: it is longer or something else than what is understood.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LENGTH_LIMIT:
            raise UnreadableExpression(f"more than {LENGTH_LIMIT} characters")
        starts, ends = text.startswith("^"), text.endswith("$") and not text.endswith("\\$")
        inner = text[starts : len(text) - ends]
        parser = _Parser(inner)
        self._whole = parser.read_choice()
        if parser.at < len(inner):
            parser.refuse("a ) without its (")
        # ^a|b is (^a)|b: rather refused than taken for ^(a|b).
        if (starts or ends) and _has_choice(inner):
            parser.refuse("^ or $ beside |")
        self._starts = starts
        self._before = parser.before
        self._places: dict[str, int] = {}
        for index, atom in enumerate(parser.atoms):
            self._places[atom] = self._places.get(atom, 0) | 1 << index
        self._tests = [(_single(atom), places) for atom, places in self._places.items() if _is_test(atom)]
        self._masks: dict[str, int] = {}
        self._taken: dict[int, int] = {}
        self.steps = 0

    def matches(self, text: str) -> bool:
        """Whether it is the whole of ``text``."""
        return self._match(text, at_dots=False)

    def matches_end(self, path: str) -> bool:
        """Whether it is all of ``path`` or what stands behind one of its dots."""
        return self._match(path, at_dots=not self._starts)

    def _match(self, text: str, *, at_dots: bool) -> bool:
        if self._whole.empty and (not text or (at_dots and text[-1] == ".")):
            return True
        wanted = self._whole.last
        for at in range(len(text) - 1, -1, -1):
            live = wanted & self._mask(text[at])
            self.steps += 1
            if not live:
                return False
            if live & self._whole.first and (at == 0 or (at_dots and text[at - 1] == ".")):
                return True
            wanted = self._step_back(live)
        return False

    def _mask(self, char: str) -> int:
        """The places where ``char`` can stand."""
        mask = self._masks.get(char)
        if mask is None:
            mask = 0 if char in _SPECIAL else self._places.get(char, 0)
            for test, places in self._tests:
                if test.match(char):
                    mask |= places
            self.steps += 1 + len(self._tests)
            if len(self._masks) < _REMEMBERED:
                self._masks[char] = mask
        return mask

    def _step_back(self, live: int) -> int:
        """The places that may come before any of ``live``."""
        wanted = self._taken.get(live)
        if wanted is None:
            wanted, rest = 0, live
            while rest:
                lowest = rest & -rest
                wanted |= self._before[lowest.bit_length() - 1]
                rest ^= lowest
                self.steps += 1
            if len(self._taken) < _REMEMBERED:
                self._taken[live] = wanted
        return wanted


def _is_test(atom: str) -> bool:
    return atom == "." or len(atom) > 1


@lru_cache(maxsize=256)
def _single(atom: str) -> re.Pattern[str]:
    """Python's own idea of one character; of one there is nothing to go back on."""
    try:
        return re.compile(atom)
    except re.error as error:
        raise UnreadableExpression(f"the class {atom}") from error


def _has_choice(text: str) -> bool:
    """Whether a | stands outside of all groups and classes."""
    bare = _CLASS.sub("", re.sub(r"\\.", "", text))
    depth = 0
    for char in bare:
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            return True
    return False


@dataclass(slots=True)
class PatternTable:
    """Values by pattern as PEFT looks them up: of the first one that is all of a module's path or its end, at a dot.

    A dot in a name is a dot. Names are found by looking them up, so thousands of them take no longer than one.
    """

    key: str
    file: Path | None = None
    names: dict[str, tuple[int, Any]] = field(default_factory=dict)
    expressions: list[tuple[int, Any, Expression]] = field(default_factory=list)
    longest: int = 0
    steps: int = 0

    def find(self, path: str, default: Any) -> Any:
        """The value for ``path``.

        Raises:
            FormatError: the expressions have taken more steps, over all paths, than those of any real table.
        """
        if len(path) > PATH_LIMIT:
            return default
        first, found = min(self._named(path), key=lambda entry: entry[0], default=(NAMES_LIMIT, default))
        for order, value, expression in self.expressions:
            if order > first:
                break
            before = expression.steps
            if expression.matches_end(path):
                return value
            self.steps += expression.steps - before
            if self.steps > STEPS_LIMIT:
                raise FormatError(
                    "its expressions take longer to match than those of any real configuration", file=self.file,
                    key=self.key, hint="Write the modules' names in their place.",
                )  # fmt: skip
        return found

    def _named(self, path: str) -> Iterator[tuple[int, Any]]:
        at = -1
        while True:
            if len(path) - at - 1 <= self.longest and (entry := self.names.get(path[at + 1 :])) is not None:
                yield entry
            if (at := path.find(".", at + 1)) < 0:
                return


def read_patterns(patterns: Mapping[str, Any], key: str, file: Path | None = None) -> PatternTable:
    """Values by pattern, in their order.

    Args:
        key: the setting, for errors.

    Raises:
        FormatError: an expression that is not understood, or more patterns than any real configuration has.
    """
    table = PatternTable(key, file)
    if len(patterns) > NAMES_LIMIT:
        raise FormatError(
            "more patterns than any real configuration has", file=file, key=key, expected=f"at most {NAMES_LIMIT}",
            found=len(patterns),
        )  # fmt: skip
    for order, (pattern, value) in enumerate(patterns.items()):
        if _is_name(pattern):
            table.names.setdefault(pattern.replace("\\", ""), (order, value))
            table.longest = max(table.longest, len(pattern))
        else:
            table.expressions.append((order, value, read_expression(pattern, key, file)))
    if len(table.expressions) > EXPRESSIONS_LIMIT:
        raise FormatError(
            "more expressions than any real configuration has", file=file, key=key,
            expected=f"at most {EXPRESSIONS_LIMIT}", found=len(table.expressions),
        )  # fmt: skip
    return table


def read_expression(pattern: str, key: str, file: Path | None = None) -> Expression:
    """One expression of the setting ``key``.

    Raises:
        FormatError: it is not understood.
    """
    try:
        return Expression(pattern)
    except UnreadableExpression as error:
        raise FormatError(
            f"an expression that is not understood: {error}", file=file, key=key, found=pattern,
            expected="characters, classes, groups, | and repetitions", hint="Write the modules' names in its place.",
        ) from error  # fmt: skip


def _is_name(pattern: str) -> bool:
    """Whether only itself matches, its dots taken for dots."""
    return not _SPECIAL & set(pattern.replace("\\.", "").replace(".", ""))
