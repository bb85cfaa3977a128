"""The house in numbers: ``make house`` prints modules by room, their lines, and the longest functions."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import si_hub

PACKAGE = Path(si_hub.__file__).parent
#: Lines of a function that is long, and how many of the longest are shown.
LONG, LONGEST = 60, 5


def measure_functions(file: Path) -> Iterator[tuple[int, str]]:
    """Lines and name of every function of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1, f"{file.relative_to(PACKAGE)}: {node.name}"


def main() -> None:
    """Print the tables."""
    rooms: dict[str, list[tuple[int, Path]]] = defaultdict(list)
    functions: list[tuple[int, str]] = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parent.as_posix()
        rooms["/" if room == "." else f"{room}/"].append((len(file.read_text(encoding="utf-8").splitlines()), file))
        functions += measure_functions(file)
    print(f"{'room':26}{'modules':>8}{'lines':>8}{'median':>8}  largest")
    everything = [entry for held in rooms.values() for entry in held]
    for room, held in {**dict(sorted(rooms.items())), "all": everything}.items():
        lines = [count for count, _ in held]
        largest, file = max(held)
        print(f"{room:26}{len(held):8}{sum(lines):8}{median(lines):8.0f}  {file.stem}.py {largest}")
    lengths = sorted(count for count, _ in functions)
    nearly_all, over = lengths[len(lengths) * 9 // 10], sum(count > LONG for count in lengths)
    print(f"{len(lengths)} functions: median {median(lengths):.0f} lines, 90 % up to {nearly_all}, over {LONG}: {over}")
    for count, name in sorted(functions, reverse=True)[:LONGEST]:
        print(f"{count:8}  {name}")


if __name__ == "__main__":
    main()
