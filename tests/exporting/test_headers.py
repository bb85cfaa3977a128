"""What headers of exported files say, read as the programs read it that show them."""

from __future__ import annotations

import json

import pytest

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.architectures.bases import BASES
from si_hub.converters.metadata import named_bases
from si_hub.exporting.headers import describe_file, diffusers_metadata, peft_config
from si_hub.storage.tensors import Tensor
from si_hub.storage.write import Digests


def layer(rank: int, alpha: float | None = None) -> Layer:
    held = {"down.weight": (rank, 3), "up.weight": (4, rank)}
    tensors = {leaf: Tensor.from_bytes("F16", shape, bytes(2 * shape[0] * shape[1])) for leaf, shape in held.items()}
    return Layer(tensors, alpha)


def describe(base: str, *layers: Layer, prediction: str | None = None, **about: object) -> dict[str, str]:
    adapter = Adapter(
        BaseModel(base, prediction_type=prediction), {"unet": Component()}, (), dict(about), {"mine": "kept"}
    )
    return describe_file(adapter, list(layers))(Digests("0" * 64, None))


@pytest.mark.parametrize("base", [base.name for base in BASES])
def test_every_base_is_named_so_that_it_is_found_again(base: str) -> None:
    found = named_bases({"ss_base_model_version": describe(base, layer(4))["ss_base_model_version"]})
    assert base in found.bases


def test_a1111_and_forge_tell_versions_apart() -> None:
    assert describe("sdxl", layer(4))["ss_base_model_version"].startswith("sdxl_")
    assert describe("sd21", layer(4), prediction="v_prediction")["ss_base_model_version"] == "sd_v2_v"
    assert describe("sd21", layer(4))["ss_v2"] == "True"
    assert describe("sd15", layer(4))["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert describe("flux", layer(4))["modelspec.architecture"] == "flux-1-dev/lora"


def test_ranks_and_alphas_that_differ_are_dynamic_and_own_keys_stay() -> None:
    said = describe("sd15", layer(4, 2.0), layer(8, 4.0), title="T")
    assert (said["ss_network_dim"], said["ss_network_alpha"], said["mine"]) == ("Dynamic", "Dynamic", "kept")
    said = describe("sd15", layer(4, 2.0), layer(4, 2.0))
    assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("4", "2")
    assert "ss_output_name" not in said


def test_pefts_configuration_has_patterns_for_what_is_not_usual() -> None:
    config = peft_config({"text_model.a": layer(4, 2.0), "b": layer(4, 2.0), "c": layer(8, 2.5)})
    assert (config["r"], config["lora_alpha"]) == (4, 2)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({"c": 8}, {"c": 2.5})
    assert config["target_modules"] == ["a", "b", "c"]
    table = json.loads(diffusers_metadata({"unet": config})["lora_adapter_metadata"])
    assert table["unet.r"] == 4
