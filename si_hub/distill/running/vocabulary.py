"""CLIP's byte pair encoding as a tokenizer: single files carry none, and every Stable Diffusion up to XL reads by it.

``clip_merges.txt.gz`` is what is used of OpenAI's ``bpe_simple_vocab_16e6.txt.gz`` (MIT, ``clip_merges.LICENSE``),
written by ``python -m si_hub.distill.running.vocabulary bpe_simple_vocab_16e6.txt.gz``.
"""

from __future__ import annotations

import gzip
import sys
from itertools import chain
from pathlib import Path
from typing import Any

#: The merges, one a line, the first to be tried first.
MERGES = Path(__file__).with_name("clip_merges.txt.gz")
#: Of the original file's merges: so many as make 49,408 tokens with 512 bytes and two marks.
USED = 48_894
#: Tokens of a prompt, marks included.
LENGTH = 77
_MARKS = ("<|startoftext|>", "<|endoftext|>")
#: Bytes that stand for themselves, in the order of CLIP's numbers; the others follow under letters from 256 on.
_PLAIN = tuple(chain(range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1)))


def clip_tokenizer(padding: str = _MARKS[1]) -> Any:
    """A ``transformers.CLIPTokenizer`` of 49,408 tokens.

    Args:
        padding: the token that short prompts are filled up with: CLIP's own is the end mark, OpenCLIP's is ``!``.
    """
    from transformers import CLIPTokenizer

    merges = [(left, right) for left, _, right in (line.partition(" ") for line in _read_merges())]
    letters = [chr(byte) for byte in _PLAIN]
    letters += [chr(256 + place) for place in range(256 - len(letters))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(left + right for left, right in merges), *_MARKS]
    vocabulary = {word: place for place, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=padding, model_max_length=LENGTH)


def _read_merges() -> list[str]:
    return gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()


def write_merges(original: Path) -> None:
    """Write what is used of the original file, the same bytes each time."""
    lines = gzip.decompress(original.read_bytes()).decode("utf-8").split("\n")[1 : USED + 1]
    MERGES.write_bytes(gzip.compress("\n".join(lines).encode("utf-8"), 9, mtime=0))


if __name__ == "__main__":
    write_merges(Path(sys.argv[1]))
