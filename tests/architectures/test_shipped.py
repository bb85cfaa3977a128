"""The base models that are shipped, by name."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from si_hub.architectures.bases import BASES
from si_hub.architectures.shipped import load, load_model, names
from si_hub.cli import main
from si_hub.errors import UsageError
from si_hub.words import at_command_line


def test_a_name_gives_the_same_object_every_time() -> None:
    assert all(load(name) is load(name) for name in names())


def test_bases_share_the_models_they_share() -> None:
    assert load("sd15").components["text_encoder"] is load_model(
        next(base for base in BASES if base.name == "sd15").components["text_encoder"].table
    )
    assert load("sdxl").components["text_encoder"] is load("flux").components["text_encoder"]


@pytest.mark.parametrize(("typed", "nearest"), [("sdxxl", "sdxl"), ("sd-15", "sd15"), ("flux.I", "flux")])
def test_a_mistyped_name_is_answered_by_the_nearest_the_usual_ones_and_what_lists_all(typed: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(typed)
    said = str(caught.value)
    assert said.startswith(f"no base model is called {typed!r}. Nearest is {nearest}")
    assert "sd15, sdxl, flux, sd3; si_hub.architectures.names() lists all" in said
    assert len(said) < 250
    with at_command_line(), pytest.raises(UsageError, match=r"; si-hub convert --help lists all \d+\.$"):
        load(typed)


def test_what_lists_all_of_them_does() -> None:
    said = CliRunner().invoke(main, ["convert", "--help"]).output.split()
    assert {base.name for base in BASES} <= {word.strip(",") for word in said}


@pytest.mark.parametrize(
    ("repository", "base"),
    [
        ("black-forest-labs/FLUX.1-dev", "flux"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("Wan-AI/wan2.1-t2v-14b-diffusers", "wan21-t2v-14b"),
    ],
)
def test_a_release_of_a_base_model_is_that_one(repository: str, base: str) -> None:
    assert load(repository).name == base
    with pytest.raises(UsageError, match=rf"Nearest is ([\w.-]+ or )*{base}\b"):
        load(f"{repository}x")


def test_a_release_of_two_says_which() -> None:
    with pytest.raises(UsageError, match=r"several base models .*\(expected stable-cascade or stable-cascade-lite\)"):
        load("stabilityai/stable-cascade-prior")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("klein", ["flux2-klein-4b", "flux2-klein-9b"]),
        ("sd35", ["sd35-medium", "sd35-large"]),
        ("SD 3.5", ["sd35-medium", "sd35-large"]),
        ("wan", ["wan21-t2v-1.3b", "wan21-t2v-14b", "wan21-i2v-14b", "wan22-t2v-a14b", "wan22-i2v-a14b",
                 "wan22-ti2v-5b", "wan21-vace-1.3b", "wan21-vace-14b"]),
        ("wan2.2", ["wan22-t2v-a14b", "wan22-i2v-a14b", "wan22-ti2v-5b"]),
        ("flux.2-klein", ["flux2-klein-4b", "flux2-klein-9b"]),
    ],
)  # fmt: skip
def test_a_name_of_several_is_answered_by_all_of_them_and_no_other(typed: str, meant: list[str]) -> None:
    with pytest.raises(UsageError, match=r"several base models are called .*Say which one\.") as caught:
        load(typed)
    assert str(caught.value.expected).split(" or ") == meant


def test_a_name_like_no_other_is_told_what_else_a_base_can_be() -> None:
    with pytest.raises(UsageError, match=r"no base model is called 'qqqq'.*folder"):
        load("qqqq")


def test_every_alias_loads_its_architecture() -> None:
    for name in names():
        for alias in load(name).aliases:
            assert load(alias.upper()).name == name


def test_clip_text_encoders_always_carry_text_model() -> None:
    for name in names():
        for model in load(name).components.values():
            if model.class_name.startswith("CLIPText"):
                assert all(path.startswith(("text_model.", "text_projection")) for path in model.modules)
