from __future__ import annotations

import pytest

from si_hub.format.modelspec import derive

DOCUMENT = {"base_model": {"architecture": "sdxl"}, "tensors_sha256": "ab" * 32}


def test_the_least_that_a_document_gives() -> None:
    assert derive(DOCUMENT) == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/styleinject",
        "modelspec.implementation": "si-hub",
        "modelspec.title": "StyleInject adapter for sdxl",
        "modelspec.hash_sha256": "0x" + "ab" * 32,
    }


def test_all_that_a_document_gives() -> None:
    found = derive(
        {
            **DOCUMENT, "title": "Ink", "author": "A", "license": "CC0-1.0", "tags": ["ink", "line"],
            "trigger_words": ["ink style", "inked"], "base_model": {"architecture": "x", "prediction_type": "epsilon"},
        }
    )  # fmt: skip
    assert found == {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "x/styleinject",
        "modelspec.implementation": "si-hub",
        "modelspec.title": "Ink",
        "modelspec.author": "A",
        "modelspec.license": "CC0-1.0",
        "modelspec.tags": "ink, line",
        "modelspec.trigger_phrase": "ink style, inked",
        "modelspec.prediction_type": "epsilon",
        "modelspec.hash_sha256": "0x" + "ab" * 32,
    }


@pytest.mark.parametrize(
    ("architecture", "prediction", "expected"),
    [
        ("sd15", None, "stable-diffusion-v1"),
        ("sd21", None, "stable-diffusion-v2-512"),
        ("sd21", "epsilon", "stable-diffusion-v2-512"),
        ("sd21", "v_prediction", "stable-diffusion-v2-768-v"),
        ("sdxl", "v_prediction", "stable-diffusion-xl-v1-base"),
        ("flux", None, "flux-1-dev"),
        ("pixart", None, "pixart"),
    ],
)
def test_architectures_have_the_names_of_modelspec(architecture: str, prediction: str | None, expected: str) -> None:
    base = {"architecture": architecture} | ({"prediction_type": prediction} if prediction else {})
    assert derive({**DOCUMENT, "base_model": base})["modelspec.architecture"] == f"{expected}/styleinject"


def test_v_prediction_is_called_v() -> None:
    base = {"architecture": "sd21", "prediction_type": "v_prediction"}
    assert derive({**DOCUMENT, "base_model": base})["modelspec.prediction_type"] == "v"
