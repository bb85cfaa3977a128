"""The tables of docs/CONVERT.md, written from the families and base models themselves: ``make tables``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from si_hub.architectures.bases import BASES
from si_hub.converters import FAMILIES, Family
from si_hub.converters.families.contract import always, never

PAGE = Path(__file__).resolve().parents[1] / "docs" / "CONVERT.md"


def _base_of(family: Family) -> str:
    """Whether a family needs the base model's weights."""
    if not family.is_converted or family.needs_base is never:
        return ""
    return "yes" if family.needs_base is always else "some"


def _form_of(family: Family) -> str:
    """What a family becomes."""
    if not family.is_converted:
        return f"refused: {family.reason}"
    return "its own exact form" if family.lower else "a dense difference"


def families_table() -> str:
    """Every family: what its tensors are called, what it becomes, and whether the base's weights are needed."""
    rows = ["| family | tensors end in | becomes | needs the base's weights |", "|---|---|---|---|"]
    for family in FAMILIES:
        suffixes = " ".join(f"`{text}`" for text in family.suffixes) or "as LoRA"
        rows.append(f"| {family.title} | {suffixes} | {_form_of(family)} | {_base_of(family)} |")
    return "\n".join(rows)


def bases_table() -> str:
    """Every base model: its name for ``--base``, other names people use, its components, and native namings."""
    rows = ["| base model | `--base` | also | components | names besides diffusers' |", "|---|---|---|---|---|"]
    for base in BASES:
        also = ", ".join(base.aliases)
        components, layouts = ", ".join(base.components), ", ".join(layout.name for layout in base.layouts)
        rows.append(f"| {base.title} | `{base.name}` | {also} | {components} | {layouts} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {"families": families_table, "bases": bases_table}


def fill(text: str) -> str:
    """A page with every table between its marks written anew.

    Raises:
        ValueError: the page has no marks of a table.
    """
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if start not in text or end not in text:
            raise ValueError(f"the page has no {start} and {end}")
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{table()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
