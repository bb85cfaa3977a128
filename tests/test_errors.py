"""Errors: one line of text with all that is known, an exit code each, and the builtin exceptions that they also are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from si_hub import errors
from si_hub.errors import MissingFile, SiHubError, UsageError

KINDS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, SiHubError)]


def test_a_line_holds_file_key_problem_both_sides_and_the_way_out() -> None:
    error = SiHubError(
        "is wrong", file=Path("a/b.safetensors"), key="unet.x", expected=[3, 4], found=None, hint="Fix it."
    )
    assert str(error) == "a/b.safetensors: unet.x: is wrong (expected [3, 4]). Fix it."
    assert str(SiHubError("is wrong", found=0)) == "is wrong (found 0)"
    assert str(SiHubError("is wrong")) == "is wrong"


def test_a_hostile_text_is_one_line_of_bounded_length_without_control_characters() -> None:
    error = SiHubError("is\nwrong", key="k" * 10**5, found="\x1b[2J\r" * 10**5, hint="Look\there.")
    text = str(error)
    assert text.isprintable()
    assert len(text) < 1000
    assert "k" * 200 in text
    assert "\\x1b[2J\\r" in text
    assert "is\\nwrong" in text


def test_data_for_scripts_hold_what_is_set_and_nothing_else() -> None:
    error = UsageError("no such name", key="base", found=["sdxxl"])
    assert json.loads(json.dumps(error.as_dict())) == {
        "error": "UsageError", "problem": "no such name", "key": "base", "found": "['sdxxl']", "exit_code": 2,
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_has_an_exit_code_of_its_own_branch_and_says_when_it_is_raised(kind: type[SiHubError]) -> None:
    assert 0 < kind.exit_code < 126
    assert kind.__doc__
    parents = [one for one in kind.__mro__[1:] if one in KINDS and one is not SiHubError]
    assert all(kind.exit_code == parent.exit_code for parent in parents)


def test_branches_are_told_apart_by_their_exit_codes() -> None:
    branches = [kind for kind in KINDS if SiHubError in kind.__bases__]
    assert len({kind.exit_code for kind in branches}) == len(branches)


def test_what_python_programmers_catch_is_caught() -> None:
    with pytest.raises(ValueError, match="no such name"):
        raise UsageError("no such name")
    with pytest.raises(FileNotFoundError) as caught:
        raise MissingFile("not there", file="x.safetensors")
    assert str(caught.value) == "x.safetensors: not there"
