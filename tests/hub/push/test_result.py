"""What a push says that it did: lines for people, data for scripts, both of the same facts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from si_hub.hub.push.result import Pushed

DONE = Pushed(
    "user/style", "a" * 40, "http://hub/user/style", "main", True, False,
    {"styleinject.safetensors": 2_500_000, "README.md": 900}, ["config.json"], {"x.ckpt": "is a pickle"},
    ["notes.txt", "b.png"], 'pipe.load_styleinject_weights("user/style")', ("a note",),
)  # fmt: skip


def test_every_fact_has_its_line() -> None:
    assert DONE.as_text().splitlines() == [
        "user/style: pushed",
        "  sent        styleinject.safetensors  2.5 MB",
        "  sent        README.md  900 B",
        "  has already config.json",
        "  stays here  1 (x.ckpt): is a pickle",
        "  stays there 2 other files of the repository",
        "  note        a note",
        f"  commit      {'a' * 40}",
        "  url         http://hub/user/style",
        '  load        pipe.load_styleinject_weights("user/style")',
    ]


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"changed": False}, "user/style has all of this already"),
        ({"created": True}, "user/style: pushed in a new repository"),
        ({"branch": "next"}, "user/style@next: pushed"),
        ({"dry_run": True}, "user/style: would be pushed, nothing was sent"),
        ({"dry_run": True, "created": True}, "user/style: would be pushed in a new repository, nothing was sent"),
    ],
)
def test_the_first_line_says_what_became_of_it(change: dict[str, object], first: str) -> None:
    assert replace(DONE, **change).as_text().splitlines()[0] == first  # type: ignore[arg-type]


def test_a_dry_run_shows_the_card_s_lines_in_bounds_and_a_push_does_not() -> None:
    diff = ["+license: mit", "+" + "x" * 1000 + "\x1b[2J"]
    shown = replace(DONE, dry_run=True, card_diff=diff).as_text().splitlines()
    assert shown[-3:-1] == ["  card", "    +license: mit"]
    assert len(shown[-1]) < 400
    assert shown[-1].isprintable()
    assert "license" not in replace(DONE, card_diff=diff).as_text()


def test_tag_and_pull_request_are_shown_where_there_are_any() -> None:
    text = replace(DONE, tag="v1", pull_request="http://hub/user/style/discussions/1").as_text()
    assert "  tag         v1\n" in text
    assert "  request     http://hub/user/style/discussions/1\n" in text


def test_scripts_get_every_field() -> None:
    data = json.loads(json.dumps(DONE.as_dict()))
    assert data.keys() == set(Pushed.__slots__)
    assert all(
        data[name] == (list(value) if isinstance(value := getattr(DONE, name), tuple) else value) for name in data
    )
