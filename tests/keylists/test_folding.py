"""Folding loses nothing, and makes little of much."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.keylists.folding import Tensors, fold, fold_tensors, read_list, unfold, unfold_tensors, write_list

WORDS = st.sampled_from(["blocks", "to_k", "to_q", "conv1", "conv2", "0", "1", "10", "11", "proj", "lora_up", "-1", ""])
NAMES = st.lists(WORDS, min_size=1, max_size=5).map(".".join)
KINDS = st.tuples(st.sampled_from(["float32", "int64"]), st.lists(st.integers(1, 9), max_size=4).map(tuple))


def test_names_that_differ_in_numbers_and_words_are_one_pattern() -> None:
    names = [f"blocks_{block}_attn{head}_to_{way}" for block in range(12) for head in (1, 2) for way in "kqv"]
    assert fold(names) == ["blocks_{0-11}_attn{1-2}_to_{k,q,v}"]
    assert fold(["b.0", "b.2", "b.3", "b.x"]) == ["b.{0,2-3,x}"]
    assert list(unfold("b.{0,2-3,x}.y")) == ["b.0.y", "b.2.y", "b.3.y", "b.x.y"]


@given(st.lists(NAMES, unique=True))
def test_every_name_comes_back_once(names: list[str]) -> None:
    assert sorted(name for pattern in fold(names) for name in unfold(pattern)) == sorted(names)


@given(st.dictionaries(NAMES, KINDS))
def test_every_tensor_comes_back(tensors: Tensors) -> None:
    assert unfold_tensors(fold_tensors(tensors)) == tensors


def test_modules_that_have_the_same_are_told_once(tmp_path: Path) -> None:
    tensors: Tensors = {}
    for number in range(3):
        tensors |= {f"a.{number}.lora_A.weight": ("float32", (4, 8)), f"a.{number}.lora_B.weight": ("float32", (8, 4))}
    folded = {".lora_A.weight float32 4 8; .lora_B.weight float32 8 4": ["a.{0-2}"]}
    assert fold_tensors(tensors) == folded
    write_list(tmp_path / "list.json", {"base": "sd15"}, tensors)
    assert read_list(tmp_path / "list.json") == ({"base": "sd15"}, tensors)


@pytest.mark.parametrize("names", [["a_{0}"], ["a_01", "a_2"]])
def test_names_that_do_not_come_back_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="holds braces, or a number that begins with 0"):
        fold_tensors(dict.fromkeys(names, ("float32", (1,))))
