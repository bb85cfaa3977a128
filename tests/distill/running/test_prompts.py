"""Prompts of a file, of the built-in list, and of a small vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from si_hub.distill.running.prompts import built_in, choose_prompts, of_words, read_prompts, unknown_share
from si_hub.errors import MissingFile, UsageError
from tests.miniature import TOKENIZER


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    """The miniature's, which knows its own grammar's words only."""
    return CLIPTokenizer.from_pretrained(TOKENIZER)


def test_a_file_s_prompts_are_its_lines_but_for_empty_ones_and_comments(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# mine\na cat\n\n  a dog, ümlaut  \n  # and\n", encoding="utf-8")
    assert read_prompts(file) == ["a cat", "a dog, ümlaut"]


def test_an_editor_s_byte_order_mark_and_line_ends_are_no_part_of_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("# mine\r\na cat\r\n".encode("utf-8-sig"))
    assert read_prompts(file) == ["a cat"]


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"\xff\xfe\x00"], ids=["empty", "comments", "no text"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"one prompt a line"):
        read_prompts(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"none\.txt"):
        read_prompts(tmp_path / "none.txt")


def test_the_built_in_list_does_not_repeat_itself() -> None:
    found = built_in(3000)
    assert len(set(found)) == 3000
    assert built_in(10, 5) == found[5:15]


def test_prompts_of_a_vocabulary_are_known_to_it_and_the_built_in_ones_are_not(tokenizer: CLIPTokenizer) -> None:
    assert unknown_share(tokenizer, built_in(20)) > 0.5
    words = of_words(tokenizer, 20, 0)
    assert unknown_share(tokenizer, words) == 0
    assert words == of_words(tokenizer, 20, 0) != of_words(tokenizer, 20, 1)


def test_a_model_that_does_not_know_the_built_in_list_gets_its_own_words(tokenizer: CLIPTokenizer) -> None:
    used, measured, told = choose_prompts(None, tokenizer, 12, 5, 0)
    assert (len(used), len(measured)) == (12, 5)
    assert not set(used) & set(measured)
    assert "vocabulary" in told


@pytest.mark.parametrize("count", [2, 3, 4, 9, 40])
def test_measuring_uses_prompts_of_the_file_that_nothing_else_uses(
    tmp_path: Path, tokenizer: CLIPTokenizer, count: int
) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\n".join(f"prompt {k}" for k in range(count)), encoding="utf-8")
    used, measured, told = choose_prompts(file, tokenizer, 16, 8, 0)
    assert (len(used), len(measured), told) == (16, 8, "mine.txt")
    assert not set(used) & set(measured)
    assert set(used) | set(measured) <= set(read_prompts(file))


def test_a_tokenizer_without_a_word_gets_the_built_in_list() -> None:
    letters = {f"{letter}</w>": index for index, letter in enumerate("abc")}
    tokenizer = CLIPTokenizer(vocab={**letters, "<|startoftext|>": 3, "<|endoftext|>": 4}, merges=[])
    assert choose_prompts(None, tokenizer, 4, 2, 0) == (built_in(4), built_in(2, 4), "the built-in list")


def test_one_prompt_serves_for_both_and_it_is_said(tmp_path: Path, tokenizer: CLIPTokenizer) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("a cat\n", encoding="utf-8")
    used, measured, told = choose_prompts(file, tokenizer, 3, 2, 0)
    assert (used, measured) == (["a cat"] * 3, ["a cat"] * 2)
    assert "one prompt for both" in told
