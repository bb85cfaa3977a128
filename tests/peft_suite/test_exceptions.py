from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from si_hub.errors import BaseMismatch, ConversionRefused, UnknownField
from si_hub.tuner import StyleInjectConfig
from tests.peft_suite.exceptions import Refusal, matches, read_exceptions
from tests.peft_suite.words import VARIANTS, is_sayable, stand_in

ADD, BENT = VARIANTS["add"], VARIANTS["variance-3-learned"]


def test_twelve_kinds_of_adapters_three_of_which_merge_or_not_by_their_router() -> None:
    assert len(VARIANTS) == 12
    assert [name for name, variant in VARIANTS.items() if variant.merges] == ["add", "add-3-fixed"]


def test_a_lora_s_words_make_one_of_ours() -> None:
    words = stand_in(VARIANTS["restyle-3-fixed"])
    made = words(r=4, lora_alpha=8, lora_dropout=0.1, bias="none", init_lora_weights=False, target_modules=["fc"])
    expected = StyleInjectConfig(
        r=4, alpha=8, init_weights=False, target_modules=["fc"], transform="restyle", num_branches=3, router="fixed"
    )
    assert made == expected
    assert isinstance(made, words)
    assert not isinstance(object(), words)


@pytest.mark.parametrize(
    "words", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"bias": "all"}, {"layer_replication": []}]
)
def test_what_ours_has_no_word_for_stays_and_is_refused(words: dict[str, object]) -> None:
    assert not is_sayable(words, ADD)
    with pytest.raises(UnknownField):
        stand_in(ADD)(**words)


@pytest.mark.parametrize(
    ("pattern", "test", "expected"),
    [
        ("test_a", "TestX::test_a[row]", True),
        ("test_a", "test_a", True),
        ("TestX", "TestX::test_a[row]", True),
        ("TestX::test_a", "TestX::test_a[row]", True),
        ("test_a[row]", "TestX::test_a[row]", True),
        ("test_a[row]", "TestX::test_a[other]", False),
        ("test_*_b", "TestX::test_a_b", True),
        ("test_a", "TestX::test_ab", False),
        ("TestX::test_a", "TestY::test_a", False),
    ],
)
def test_patterns_are_names_with_or_without_class_and_row(pattern: str, test: str, expected: bool) -> None:
    assert matches(pattern, test) is expected


def test_a_refusal_is_met_by_its_error_and_its_words_alone() -> None:
    refusal = Refusal("so", ("ConversionRefused",), "depends on the features")
    assert refusal.is_met(ConversionRefused("the injection depends on the features"))
    assert not refusal.is_met(ConversionRefused("another reason"))
    assert not refusal.is_met(BaseMismatch("depends on the features"))


def test_every_entry_has_a_reason_of_its_own_and_a_known_kind() -> None:
    exceptions = read_exceptions()
    reasons = [refusal.because for refusal in exceptions.refusals]
    assert len(set(reasons)) == len(reasons)
    assert all(exceptions.left_out.values())
    assert {refusal.of for refusal in exceptions.refusals} <= {"all", "branches", "routers", "merge", "not merge"}
    merging = [refusal.because for refusal in exceptions.refusals_of(BENT) if refusal.of == "not merge"]
    assert merging
    assert not set(merging) & {refusal.because for refusal in exceptions.refusals_of(ADD)}


def test_refusals_that_any_test_may_end_in_name_errors_of_ours() -> None:
    spec = importlib.util.find_spec("si_hub.errors")
    assert spec is not None
    assert spec.origin is not None
    parsed = ast.parse(Path(spec.origin).read_bytes())
    ours = {node.name for node in parsed.body if isinstance(node, ast.ClassDef)}
    for refusal in read_exceptions().refusals:
        if not refusal.tests:
            assert refusal.raises[0] in ours
            assert len(refusal.says) > 20
