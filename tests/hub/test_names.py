"""Names of users and of servers: what is taken, and what never becomes a path."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from si_hub.errors import BadListing, UsageError
from si_hub.hub import names
from si_hub.hub.names import RepoRef

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("user/style", RepoRef("user/style")),
        ("user/style@v1", RepoRef("user/style", "v1")),
        ("user/style@refs/pr/1", RepoRef("user/style", "refs/pr/1")),
        (f"user/style@{SHA}", RepoRef("user/style", SHA)),
        ("style", RepoRef("style")),
    ],
)
def test_a_reference_is_a_repository_and_perhaps_a_revision(text: str, ref: RepoRef) -> None:
    assert names.parse_ref(text) == ref
    assert str(ref) == text


def test_the_revision_may_be_said_apart_but_not_twice() -> None:
    assert names.parse_ref("user/style", "v1") == names.parse_ref("user/style@v1", "v1") == RepoRef("user/style", "v1")
    with pytest.raises(UsageError, match=r"two revisions \(expected v2, found v1\)"):
        names.parse_ref("user/style@v1", "v2")


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/b/c", "user/", "../x", "user/..", "user/a--b", "user/a.git", "user/-a/..", "datasets/user/x",
     "user/st yle", "user/stÿle", "u" * 97, "user/x\n", "https://huggingface.co/user/style"],
)  # fmt: skip
def test_what_is_no_repository_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is no repository id"):
        names.parse_ref(text)


@given(st.text(alphabet="ab-./_ \\é@", max_size=12))
def test_no_id_that_huggingface_hub_refuses_is_taken(text: str) -> None:
    if names.is_repo_id(text):
        try:
            validate_repo_id(text)
        except HFValidationError as error:
            pytest.fail(f"{text}: {error}")


@pytest.mark.parametrize(
    "revision",
    ["", "..", "a/../b", "../../etc/passwd", "/etc", "-x", "a b", "a\nb", "a\\b", "a~1", "a^", "a:b", "a?", "a*", "a[b",
     "x.lock", "a//b", "a/", "a.", ".a", "a/.b", "@{u}", "x" * 256],
)  # fmt: skip
def test_what_git_has_no_branch_for_is_no_revision(revision: str) -> None:
    with pytest.raises(UsageError, match="is no revision"):
        names.parse_ref("user/style", revision)


@pytest.mark.parametrize(
    "name",
    ["../up.json", "a/../../up.json", "/etc/passwd", "C:/x.json", "c:x.json", "a\\b.json", "..\\up.json", "a/./b.json",
     "a//b.json", ".", "..", "", "a/", "nul\0.json", "line\nbreak.json", "escape\x1b[2J.json", "del\x7f.json",
     "c1\x85.json", "\ud800.json", "x" * 256 + ".json", "d/" * 600 + "x.json"],
)  # fmt: skip
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(BadListing, match="a file's name"):
        names.safe_path(name, "user/style")


@pytest.mark.parametrize(
    "name", ["a.json", "samples/1.png", "ä/ö.md", "a b.png", "..a.json", "a..b/c.json", "~/x.json"]
)
def test_an_ordinary_name_is_taken_as_it_is(name: str) -> None:
    assert names.safe_path(name, "user/style") == name


@given(st.text(max_size=30))
def test_whatever_is_taken_stays_below_its_folder(name: str) -> None:
    if names.why_unsafe(name) is None:
        root = Path("/some/folder")
        joined = os.path.normpath(root / name)
        assert Path(joined).is_relative_to(root)
        assert joined != str(root)
        assert all(ord(c) >= 32 and c != "\\" for c in name)


@pytest.mark.parametrize(
    "files", [["A.json", "a.json"], ["x/a.png", "X/A.png"], ["a.json", "a.json/b.md"], ["straße.md", "STRASSE.md"]]
)
def test_names_that_are_one_file_where_case_does_not_count_are_refused(files: list[str]) -> None:
    with pytest.raises(BadListing, match="one file on some systems"):
        names.check_collisions(files, "user/style")
    names.check_collisions(files[:1], "user/style")


@pytest.mark.parametrize("sha", [None, 3, "", "main", SHA[:39], SHA + "0", SHA.upper(), "../" + SHA[3:], SHA + "\n"])
def test_a_commit_is_forty_hex_digits(sha: object) -> None:
    with pytest.raises(BadListing, match="the commit is no hash"):
        names.safe_commit(sha, "user/style")
    assert names.safe_commit(SHA, "user/style") == SHA


@pytest.mark.parametrize(
    ("text", "is_one"),
    [("user/style", True), ("user/style@v1", True), ("style", False), ("./a/b", False), ("/a/b", False),
     ("loras/x.safetensors", False), ("a/x.PT", False), ("a/b/c", False), ("a/b.c", True)],
)  # fmt: skip
def test_a_file_s_name_is_no_reference(
    text: str, is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert names.is_repository(text) is names.looks_like_ref(text) is is_one
    if not text.startswith("/"):
        (tmp_path / text).mkdir(parents=True)
        assert names.is_repository(text) is False


def test_a_repository_told_as_a_path_of_windows_is_the_same_repository() -> None:
    path = PureWindowsPath("user/style@v1")
    assert str(path) == "user\\style@v1"
    assert names.is_repository(path)
    assert names.as_ref(path) == names.as_ref("user/style@v1") == "user/style@v1"


@pytest.mark.parametrize("name", ["aux.json", "a/NUL", "b.png:c", "card.md.", "x /y.md", "com1.tar.gz", "q?.png"])
def test_a_name_that_windows_cannot_have_is_refused_there_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names.why_unsafe(name) is None
    monkeypatch.setattr(names, "_HERE_IS_WINDOWS", True)
    assert names.why_unsafe(name) == "is none that Windows can have"
    assert names.why_unsafe("auxiliary/console.json") is None
