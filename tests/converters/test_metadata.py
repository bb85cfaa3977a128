"""Header metadata: into the document, kept, or left out by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from si_hub import architectures
from si_hub.converters.metadata import KEY_LIMIT, TOTAL_LIMIT, describe, keep, named_bases, prediction_type


def test_what_people_wrote_becomes_part_of_the_document() -> None:
    metadata = {
        "ss_output_name": "last-000010", "modelspec.title": "Ink wash", "modelspec.author": " A. Painter ",
        "modelspec.license": "CC-BY-4.0", "modelspec.trigger_phrase": "inkwash, in ink style,inkwash,",
        "modelspec.tags": '["ink", "style"]',
    }  # fmt: skip
    assert describe(metadata) == {
        "title": "Ink wash", "author": "A. Painter", "license": "CC-BY-4.0",
        "trigger_words": ["inkwash", "in ink style"], "tags": ["ink", "style"],
    }  # fmt: skip
    assert describe({"ss_output_name": "ink", "modelspec.title": "  "}) == {"title": "ink"}
    assert describe({"modelspec.tags": "5", "modelspec.trigger_phrase": "[]"}) == {"tags": ["5"]}


def test_large_and_stale_metadata_are_left_out_by_name() -> None:
    metadata = {
        "format": "pt", "ss_network_dim": "8", "ss_tag_frequency": "x" * 3_000_000, "modelspec.hash_sha256": "0x12",
        "modelspec.resolution": "1024x1024", "sshs_model_hash": "ab",
    }  # fmt: skip
    kept, left_out = keep(metadata)
    assert kept == {"ss_network_dim": "8", "modelspec.resolution": "1024x1024"}
    assert set(left_out) == {"ss_tag_frequency", "modelspec.hash_sha256", "sshs_model_hash"}
    assert left_out["ss_tag_frequency"] == "3000016 bytes, too large for an adapter's header"


def test_what_no_document_can_hold_is_left_out_by_name_and_is_no_error() -> None:
    metadata = {
        "modelspec.tags": "[" * 5000, "modelspec.title": "x" * 5000, "ss_output_name": "ink",
        "modelspec.trigger_phrase": ", ".join(f"word{number}" for number in range(9000)),
        "modelspec.license": " ", "modelspec.author": "A", "modelspec.prediction_type": "<b>",
    }  # fmt: skip
    assert describe(metadata) == {"title": "ink", "author": "A", "tags": ["[" * 5000]}
    kept, left_out = keep(metadata)
    assert kept == {"ss_output_name": "ink", "modelspec.license": " ", "modelspec.prediction_type": "<b>"}
    assert left_out == {
        "modelspec.author": "moved into the document", "modelspec.tags": "moved into the document",
        "modelspec.title": "5015 bytes, too large for an adapter's header",
        "modelspec.trigger_phrase": "88912 bytes, too large for an adapter's header",
    }  # fmt: skip
    assert prediction_type(metadata) is None


def test_where_room_ends_the_reason_is_not_the_metadatas_own_size() -> None:
    kept, left_out = keep({f"key{number:04}": "v" * 93 for number in range(100)})
    assert len(kept) == TOTAL_LIMIT // 100
    assert set(left_out.values()) == {"no room beside 8192 bytes of smaller ones"}


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=KEY_LIMIT), max_size=30))
def test_metadata_are_kept_whole_or_left_out_by_name_within_the_limit(metadata: dict[str, str]) -> None:
    kept, left_out = keep(metadata)
    assert set(kept) | set(left_out) == set(metadata) - {"format"}
    assert not set(kept) & set(left_out)
    assert all(metadata[key] == value for key, value in kept.items())
    assert sum(len(key.encode()) + len(value.encode()) for key, value in kept.items()) <= TOTAL_LIMIT


@pytest.mark.parametrize(
    ("metadata", "bases"),
    [
        ({"ss_base_model_version": "sd_v2_v"}, {"sd21"}),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, {"sdxl"}),
        ({"ss_base_model_version": "SDXL 1.0"}, {"sdxl"}),
        ({"ss_base_model_version": "sdxl_base_v1-0", "modelspec.architecture": "stable-diffusion-xl"}, {"sdxl"}),
        ({"ss_base_model_version": "sdxl_refiner_v1-0"}, {"sdxl-refiner"}),
        ({"baseModel": "SD 1.5"}, {"sd15"}),
        ({"baseModel": "Illustrious"}, {"sdxl"}),
        ({"ss_v2": "True"}, {"sd21"}),
    ],
)
def test_metadata_name_base_models(metadata: dict[str, str], bases: set[str]) -> None:
    said = named_bases(metadata)
    assert said.bases == bases
    assert all(map(said.allows, bases))
    assert not said.allows("flux")


def test_metadata_that_name_no_base_model_allow_every_one() -> None:
    for metadata in ({}, {"baseModel": "my own"}, {"ss_v2": "maybe"}, {"ss_base_model_version": " "}):
        assert named_bases(metadata).allows("sd15")


def test_metadata_that_name_an_unknown_one_or_two_different_ones_allow_none() -> None:
    for metadata in (
        {"ss_base_model_version": "a-model-of-tomorrow"},
        {"ss_base_model_version": "sd_v1", "modelspec.architecture": "flux-1-dev/lora"},
    ):
        said = named_bases(metadata)
        assert not any(map(said.allows, architectures.names()))
        assert all(text in said.quote() for text in metadata.values())


def test_what_is_not_a_second_stable_diffusion_may_be_any_other() -> None:
    said = named_bases({"ss_v2": "False"})
    assert {name for name in architectures.names() if not said.allows(name)} == {"sd21"}


def test_metadata_name_prediction_types() -> None:
    assert prediction_type({"ss_base_model_version": "sd_v2_v"}) == "v_prediction"
    assert prediction_type({"modelspec.prediction_type": "epsilon"}) == "epsilon"
    assert prediction_type({}) is None


def test_large_metadata_never_cost_small_ones_their_place() -> None:
    """Eight of the large ones would fill the room to the last byte."""
    metadata = {f"a{number}": "x" * (TOTAL_LIMIT // 8 - 2) for number in range(8)} | {"z": "small"}
    kept, left_out = keep(metadata)
    assert kept["z"] == "small"
    assert len(kept) == 1 + 7
    assert len(left_out) == 1


@pytest.mark.parametrize(
    ("key", "text", "kept"),
    [
        ("ss_sd_model_name", "/home/karl/x.safetensors", "x.safetensors"),
        ("ss_vae_name", "C:\\Users\\karl\\vae.pt", "vae.pt"),
        ("ss_sd_model_name", "/Users/karl/models/x/", "x"),
        ("ss_output_name", "D:/out/ink", "ink"),
        ("ss_sd_model_name", "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-dev"),
        ("ss_sd_model_name", "/home/karl", None),
        ("ss_output_dir", "/workspace/out", None),
        ("ss_output_dir", "models\\out", None),
        ("ss_datasets", '[{"image_dir": "/data/ink", "repeats": 3}]', None),
        ("ss_datasets", '{"C:\\\\data\\\\ink": 3}', None),
        ("ss_datasets", '[{"image_dir": "ink", "repeats": 3}]', '[{"image_dir": "ink", "repeats": 3}]'),
        ("ss_network_args", '["/data', '["/data'),
        ("ss_training_comment", "/data is where it was", "/data is where it was"),
        ("ss_training_comment", "of /home/karl/ink", None),
        ("sample_prompt", "/imagine ink, style \\(wash\\)", "/imagine ink, style \\(wash\\)"),
        ("/home/karl/x", "1", None),
    ],
)  # fmt: skip
def test_of_a_path_a_models_name_is_kept_and_nothing_else(key: str, text: str, kept: str | None) -> None:
    expected = ({}, {key: "names a place of one machine"}) if kept is None else ({key: kept}, {})
    assert keep({key: text}) == expected


def test_the_document_takes_no_place_either() -> None:
    assert describe({"ss_output_name": "/home/karl/out/ink"}) == {"title": "ink"}
    metadata = {"modelspec.title": "in /home/karl", "ss_output_name": "ink", "modelspec.author": "/Users/karl"}
    assert describe(metadata) == {"title": "ink"}
    assert keep(metadata) == (
        {"ss_output_name": "ink"},
        dict.fromkeys(("modelspec.title", "modelspec.author"), "names a place of one machine"),
    )
    assert describe({"modelspec.trigger_phrase": "/ink, ink \\(wash\\)"}) == {
        "trigger_words": ["/ink", "ink \\(wash\\)"]
    }
