"""Licences as authors write them, in the Hub's three keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub.hub.card.licenses import card_keys


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("MIT", "mit"), ("Apache-2.0", "apache-2.0"), (" CC-BY-NC-4.0 ", "cc-by-nc-4.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("LGPL-2.1-only", "lgpl-2.1"), ("CreativeML-OpenRAIL-M", "creativeml-openrail-m"), ("OpenRAIL++", "openrail++"),
    ],
)  # fmt: skip
def test_a_licence_that_the_hub_knows_is_its_identifier(written: str, known: str) -> None:
    assert card_keys(written) == {"license": known}


def test_another_licence_is_other_with_its_name_and_its_link() -> None:
    assert card_keys("FLUX.1 [dev] Non-Commercial (https://bfl.ai/license.md)") == {
        "license": "other", "license_name": "flux.1-dev-non-commercial", "license_link": "https://bfl.ai/license.md",
    }  # fmt: skip
    assert card_keys("my own terms") == {"license": "other", "license_name": "my-own-terms"}


@given(st.text(min_size=1))
def test_any_text_gives_keys_of_plain_characters(text: str) -> None:
    keys = card_keys(text)
    assert re.fullmatch(r"[a-z0-9.+-]+", keys["license"])
    assert re.fullmatch(r"[a-z0-9.-]{1,96}", keys.get("license_name", "x"))
    assert re.fullmatch(r"https?://[!-~]+", keys.get("license_link", "http://x"))
