"""The key lists are what the installed peers write, and nothing else."""

from __future__ import annotations

import pytest

from si_hub.converters import FAMILIES
from si_hub.converters.families.peft_kinds import FAMILIES_OF_PEFT
from tests.keylists.folding import read_list
from tests.keylists.make import FOLDER, LISTS, make_list


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_what_its_peer_writes_now(name: str) -> None:
    """Where a newer peer names its tensors otherwise: `python -m tests.keylists.make`, and look at the difference."""
    pytest.importorskip(name.partition("_")[0])
    about, tensors = read_list(FOLDER / f"{name}.json")
    told, made = make_list(name)
    assert made == tensors
    assert {key: value for key, value in about.items() if key != "source"} == told


def test_every_file_is_a_list() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == {*LISTS}


def test_every_family_that_a_peer_trains_is_listed() -> None:
    listed = {family for recipe in LISTS.values() for family in recipe.families.split("+")}
    # What trainers, extractors and other formats write; the tests of the families have files of them.
    elsewhere = {"lora-bias", "sparse", "embedding-lora", "set", "reshaped", "routed-lora"}
    elsewhere |= {
        "ln-tuning",
        "trainable-tokens",
        "adalora-peft",
        "styleinject-peft",
        *(family.name for family in FAMILIES_OF_PEFT),
    }
    assert listed | elsewhere == {family.name for family in FAMILIES}
    assert not listed & elsewhere
