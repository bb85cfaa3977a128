"""What a folder remembers of its pushes."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub.errors import UsageError
from si_hub.hub.push.memory import MEMORY_NAME, Memory, key_of, read_memory

ROOT = Path(__file__).parents[3]
SHA = "0123456789abcdef0123456789abcdef01234567"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    key = key_of("https://huggingface.co", "user/style", "main")
    memory = Memory({"ink.safetensors": "user/style"}, {key: SHA}, {key: {"README.md": "sha256:0 git-sha1:1"}})
    memory.write(tmp_path)
    assert read_memory(tmp_path) == memory
    assert [path.name for path in tmp_path.iterdir()] == [MEMORY_NAME]


def test_this_repository_s_own_git_ignores_it() -> None:
    """README's commands are run in a checkout, and leave it there."""
    assert MEMORY_NAME in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_no_file_is_an_empty_memory(tmp_path: Path) -> None:
    assert read_memory(tmp_path) == Memory()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{", '{"adapters": []}', '{"adapters": {"a": "../../x"}}', '{"adapters": {"a": 1}}',
        '{"commits": {"k": "../x"}}', '{"pending": {"k": 1}}', "[" * 100_000, '{"adapters": {"a": "u/s"}',
    ],
)  # fmt: skip
def test_anything_else_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / MEMORY_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="Delete it"):
        read_memory(tmp_path)


def test_a_renamed_only_adapter_keeps_its_repository(tmp_path: Path) -> None:
    memory = Memory({"old.safetensors": "user/style"})
    assert memory.repository(tmp_path / "old.safetensors") == "user/style"
    assert memory.repository(tmp_path / "new.safetensors") == "user/style"
    (tmp_path / "old.safetensors").write_bytes(b"")
    assert memory.repository(tmp_path / "new.safetensors") is None


def test_writing_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x", encoding="utf-8")
    (tmp_path / MEMORY_NAME).symlink_to(tmp_path / "precious")
    Memory({"a": "user/style"}).write(tmp_path)
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "x"
    assert not (tmp_path / MEMORY_NAME).is_symlink()
