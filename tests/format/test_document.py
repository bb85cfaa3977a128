from __future__ import annotations

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub import errors
from si_hub.adapter import Component, Layer
from si_hub.format import document as documents
from si_hub.storage.tensors import Tensor

PAIR = {
    "down.weight": Tensor.from_bytes("F32", (1, 1), bytes(4)),
    "up.weight": Tensor.from_bytes("F32", (1, 1), bytes(4)),
}


def component(*alphas: float | None) -> Component:
    return Component(None, {f"m{i}": Layer(PAIR, alpha=alpha) for i, alpha in enumerate(alphas)})


@pytest.mark.parametrize(
    ("alphas", "default"),
    [
        ((8.0, 8.0, 4.0), 8.0),
        ((4.0, 8.0), 4.0),
        ((1.0,), 1.0),
        ((None, None), None),
        ((None, 8.0, 8.0), None),
        ((), None),
    ],
)
def test_the_default_alpha_is_the_commonest_and_null_where_one_layer_goes_by_its_rank(
    alphas: tuple[float | None, ...], default: float | None
) -> None:
    assert documents.default_alpha(component(*alphas)) == default


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_an_alpha_tensor_holds_its_number_exactly_in_the_narrowest_width(value: float) -> None:
    tensor = documents.alpha_tensor(value)
    assert tensor.item() == value
    with numpy.errstate(over="ignore"):
        fits = float(numpy.float32(value)) == value
    assert tensor.dtype == ("F32" if fits else "F64")


def test_canonical_text_is_that_of_rfc_8785() -> None:
    # The example of RFC 8785, section 3.2.2, with the output that section 3.2.3 gives.
    example = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    assert documents.canonical(example) == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_the_limit_counts_the_document_as_it_stands_in_the_header() -> None:
    plain = documents.DOCUMENT_LIMIT - len('"{\\"a\\":\\"\\"}"')
    assert documents.canonical({"a": "x" * plain})
    with pytest.raises(errors.DocumentTooLarge, match="65537"):
        documents.canonical({"a": "x" * (plain + 1)})
    # A line feed is \n in the document and \\n in the header: three bytes.
    assert documents.canonical({"a": "\n" * (plain // 3)})
    with pytest.raises(errors.DocumentTooLarge):
        documents.canonical({"a": "\n" * (plain // 3 + 1)})


def test_the_depth_limit_is_exact() -> None:
    def nested(levels: int) -> str:
        return '{"a":' * levels + "1" + "}" * levels

    assert documents.parse_document(nested(documents.DEPTH_LIMIT))
    with pytest.raises(errors.TooDeep):
        documents.parse_document(nested(documents.DEPTH_LIMIT + 1))


def test_numbers_are_doubles() -> None:
    text = '{"a":[9007199254740991,9007199254740992,-100000000000000000000,0.5,-0]}'
    values = documents.parse_document(text)["a"]
    assert values == [2**53 - 1, 2.0**53, -1e20, 0.5, 0]
    assert [type(value) for value in values] == [int, float, float, float, int]
    assert math.copysign(1, values[4]) == 1
