"""The vocabulary: whole words, and every sentence fits."""

from __future__ import annotations

from pathlib import Path

from examples.miniature import text
from examples.miniature.scenes import words


def test_every_word_of_the_grammar_is_one_token(tmp_path: Path) -> None:
    tokenizer = text.load_tokenizer(tmp_path)
    for word in words():
        first, *inner, last = tokenizer(word).input_ids
        assert (first, last) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert tokenizer.convert_ids_to_tokens(inner) == [f"{word}</w>"]


def test_every_token_has_one_place_in_the_vocabulary(tmp_path: Path) -> None:
    tokenizer = text.load_tokenizer(tmp_path)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_the_longest_sentence_fits(tmp_path: Path) -> None:
    tokenizer = text.load_tokenizer(tmp_path)
    sentence = "a small red star left of a large blue square, on sand, neon style"
    assert len(tokenizer(sentence).input_ids) <= text.TOKENS
    ids = text.ids_of(tokenizer, [sentence, ""])
    assert ids.shape == (2, text.TOKENS)
    assert set(ids[1].tolist()) == {tokenizer.bos_token_id, tokenizer.eos_token_id}
