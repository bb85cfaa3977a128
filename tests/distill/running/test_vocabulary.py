"""CLIP's tokenizer from what is shipped: numbers as OpenAI's own code gives them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from si_hub.distill.running import vocabulary

#: Of openai/CLIP's ``tokenize``, without its zeros.
KNOWN = {
    "": [49406, 49407],
    "a diagram": [49406, 320, 22697, 49407],
    "A photo of a cat!": [49406, 320, 1125, 539, 320, 2368, 256, 49407],
    "it's 12345 naïve café": [49406, 585, 568, 272, 273, 274, 275, 276, 1097, 35689, 563, 15304, 49407],
}


@pytest.mark.parametrize(("text", "expected"), KNOWN.items())
def test_prompts_have_the_numbers_of_clip(text: str, expected: list[int]) -> None:
    assert vocabulary.clip_tokenizer()(text).input_ids == expected


def test_short_prompts_are_filled_up_as_each_project_does() -> None:
    for padding, number in (("<|endoftext|>", 49407), ("!", 0)):
        tokenizer = vocabulary.clip_tokenizer(padding)
        ids = tokenizer("a diagram", padding="max_length", truncation=True).input_ids
        assert len(tokenizer) == 49_408
        assert ids == [49406, 320, 22697, 49407] + [number] * 73


def test_what_is_shipped_is_written_from_the_original_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = gzip.decompress(vocabulary.MERGES.read_bytes())
    original = tmp_path / "bpe.txt.gz"
    original.write_bytes(gzip.compress(b'"bpe_simple_vocab_16e6.txt#version: 0.2\n' + used + b"\nnot used"))
    monkeypatch.setattr(vocabulary, "MERGES", tmp_path / "merges.txt.gz")
    vocabulary.write_merges(original)
    assert gzip.decompress(vocabulary.MERGES.read_bytes()) == used
