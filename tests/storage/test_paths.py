"""Texts that are paths, or hold the path of a home folder."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from si_hub.storage.paths import expand_home, find_home, is_path, last_name, names_a_place

PLACES = [
    "/home/me/base", "~/base", "~me", "..", "../base", "base/../other", "./base", "C:\\models\\base", "C:/models", "d:",
    "models\\base", "\\\\server\\share", "file:///home/me/base",
]  # fmt: skip
NAMES = ["sd15", "StableDiffusionXLPipeline", "my base, 2nd try", "sd1.5", "flux:dev", "a..b", ".hidden", "v~2"]
#: Texts of metadata that begin or go on as a path does, and are none.
WORDS = [
    "ink \\(style\\)",
    "a / b",
    "/ ink",
    "~ 20 pictures",
    "8:2",
    "https://example.org/home/karl",
    "1.0",
    "data:,/x",
]


@pytest.mark.parametrize("text", PLACES)
def test_a_path_is_a_place(text: str) -> None:
    assert names_a_place(text)


@pytest.mark.parametrize("text", [*NAMES, "user/name", "unet/adapter_model.safetensors"])
def test_a_name_is_none(text: str) -> None:
    assert not names_a_place(text)
    assert not is_path(text)


@pytest.mark.parametrize("text", [text for text in PLACES if text not in ("~me", "..", "base/../other", "d:")])
def test_a_text_may_be_a_path(text: str) -> None:
    assert is_path(text)
    assert is_path(f" {text} ")


@pytest.mark.parametrize("text", WORDS)
def test_words_are_no_path_and_hold_no_home(text: str) -> None:
    assert not is_path(text)
    assert find_home(text) is None


@pytest.mark.parametrize(
    ("text", "home"),
    [
        ("/home/karl", "/home/karl"),
        ("from /Users/karl.m/pictures, mostly", "/Users/karl.m"),
        ("C:\\Users\\Karl\\x.safetensors", "C:\\Users\\Karl"),
        ('["d:\\\\users\\\\karl\\\\x"]', "d:\\\\users\\\\karl"),
        ("c:/users/karl/x", "c:/users/karl"),
        ("/mnt/c/Users/karl/x", "/mnt/c/Users/karl"),
        ("file:///home/jürgen/x", "///home/jürgen"),
        ("in /srv/me/x", "/srv/me"),
        ("/srv/mean", None),
        ("my/home/karl", None),
        ("/home/<user>", None),
    ],
)
def test_a_home_folder_is_found(text: str, home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/me")
    assert find_home(text) == home


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/karl/x.safetensors", "x.safetensors"),
        ("C:\\Users\\karl\\x.safetensors", "x.safetensors"),
        ("/data/models/", "models"),
        ("/home/karl", ""),
        ("/Users/karl/", ""),
        ("C:\\Users\\Karl Marx", ""),
        ("/srv/me/", ""),
        ("~/", ""),
        ("..", ""),
    ],
)
def test_a_path_ends_with_a_name_that_is_no_users(path: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/me")
    assert last_name(path) == name


@pytest.mark.parametrize("text", ["/" * 1_000_000, "/mnt/a" * 150_000, "C:/" * 300_000, "home/" * 200_000])
def test_the_longest_text_is_looked_through_in_one_go(text: str) -> None:
    start = time.process_time()
    assert find_home(text) is None
    # Going back for every slash would take hours.
    assert time.process_time() - start < 60


def test_a_home_behind_any_number_of_slashes_is_found() -> None:
    assert (find_home("/" * 50 + "home/ada/x") or "").endswith("/home/ada")


@pytest.mark.parametrize("path", ["~\0", "~no such user/x", "a~", "~\0/x"])
def test_a_home_that_nobody_has_stays_as_it_is_written(path: str) -> None:
    assert expand_home(path) == Path(path)


def test_a_home_is_put_in_its_place() -> None:
    assert expand_home("~/styles") == Path.home() / "styles"
