"""Every kind of PEFT that is converted: a model of its own layers with random numbers, saved, and run by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import (
    AdaLoraConfig,
    BeftConfig,
    BOFTConfig,
    C3AConfig,
    DeftConfig,
    DeloraConfig,
    FourierFTConfig,
    GloraConfig,
    GraloraConfig,
    HiraConfig,
    HRAConfig,
    IA3Config,
    LilyConfig,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    OSFConfig,
    PeanutConfig,
    PsoftConfig,
    PveraConfig,
    RandLoraConfig,
    RoadConfig,
    ShiraConfig,
    SupertuningConfig,
    TinyLoraConfig,
    TrainableTokensConfig,
    UniLoraConfig,
    VBLoRAConfig,
    VeraConfig,
    WaveFTConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from torch import nn

from si_hub.errors import LayerShapeError, SiHubError, UnsupportedFamily
from tests.converters.families.test_lycoris import build, draw_inputs, run
from tests.converters.tiny import MODULES, convert_saved, merge, weights

LINEAR, SQUARE, POINT, CONV, NORM, TABLE = MODULES
LINEARS = (LINEAR, SQUARE)
WEIGHTED = (LINEAR, SQUARE, POINT, CONV)

#: kind: a name → (PEFT's configuration, its options, the modules it is for).
KINDS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "lora": (LoraConfig, {"r": 4, "lora_alpha": 6}, WEIGHTED),
    "lora by patterns": (
        LoraConfig,
        {"r": 4, "lora_alpha": 6, "rank_pattern": {"square": 2, r"mid_block\.co.*": 3}, "alpha_pattern": {"linear": 9}},
        WEIGHTED,
    ),
    "lora rs": (LoraConfig, {"r": 4, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"conv": 2}}, WEIGHTED),
    "lora bias": (LoraConfig, {"r": 4, "lora_alpha": 6, "lora_bias": True}, (LINEAR, POINT, CONV)),
    "lora of an embedding": (LoraConfig, {"r": 4, "lora_alpha": 6}, (TABLE,)),
    "dora": (LoraConfig, {"r": 4, "lora_alpha": 6, "use_dora": True}, WEIGHTED),
    "loha": (LoHaConfig, {"r": 2, "alpha": 3}, WEIGHTED),
    "loha by patterns": (
        LoHaConfig,
        {"r": 2, "alpha": 3, "rank_pattern": {"conv": 3}, "alpha_pattern": {"linear": 5}},
        WEIGHTED,
    ),
    "loha effective": (LoHaConfig, {"r": 2, "alpha": 3, "use_effective_conv2d": True}, WEIGHTED),
    "lokr": (LoKrConfig, {"r": 2, "alpha": 3}, WEIGHTED),
    "lokr full": (LoKrConfig, {"r": 64, "alpha": 3}, WEIGHTED),
    "lokr both": (LoKrConfig, {"r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 4}, WEIGHTED),
    "lokr effective": (LoKrConfig, {"r": 1, "alpha": 3, "use_effective_conv2d": True}, WEIGHTED),
    "ia3": (IA3Config, {"feedforward_modules": []}, WEIGHTED),
    "ia3 of feed-forwards": (IA3Config, {"feedforward_modules": ["linear", "square", "point", "conv"]}, WEIGHTED),
    "oft": (OFTConfig, {"oft_block_size": 4}, WEIGHTED),
    "oft of four blocks": (OFTConfig, {"r": 4, "oft_block_size": 0}, WEIGHTED),
    "oft held": (OFTConfig, {"oft_block_size": 4, "coft": True, "eps": 1e-2}, WEIGHTED),
    "oft of one block": (OFTConfig, {"oft_block_size": 4, "block_share": True}, WEIGHTED),
    "oft by cayley": (OFTConfig, {"oft_block_size": 8, "use_cayley_neumann": False}, WEIGHTED),
    "oft of an embedding": (OFTConfig, {"oft_block_size": 4}, (TABLE,)),
    "boft": (BOFTConfig, {"boft_block_size": 4}, WEIGHTED),
    "boft of two stages": (BOFTConfig, {"boft_block_size": 4, "boft_n_butterfly_factor": 2}, WEIGHTED),
}
#: As `KINDS`, of those that PEFT itself is asked for, and the smaller ones.
OTHERS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "adalora": (AdaLoraConfig, {"init_r": 4, "lora_alpha": 6, "total_step": 9}, WEIGHTED),
    "hra": (HRAConfig, {"r": 4}, WEIGHTED),
    "hira": (HiraConfig, {"r": 4, "rank_pattern": {"square": 2}}, (*WEIGHTED, TABLE)),
    "fourierft": (FourierFTConfig, {"n_frequency": 20, "n_frequency_pattern": {"square": 9}}, LINEARS),
    "waveft": (WaveFTConfig, {"n_frequency": 20}, LINEARS),
    "c3a": (C3AConfig, {"block_size": 8, "block_size_pattern": {"square": 4}}, LINEARS),
    "gralora": (GraloraConfig, {"r": 4, "gralora_k": 2}, LINEARS),
    "gralora and lora": (GraloraConfig, {"r": 4, "gralora_k": 2, "hybrid_r": 2}, LINEARS),
    "delora": (DeloraConfig, {"r": 4, "rank_pattern": {"square": 2}}, LINEARS),
    "miss": (MissConfig, {"r": 4}, LINEARS),
    "miss bat": (MissConfig, {"r": 4, "init_weights": "bat"}, LINEARS),
    "miss mini": (MissConfig, {"r": 4, "mini_r": 8, "init_weights": "mini"}, LINEARS),
    "shira": (ShiraConfig, {"r": 2}, LINEARS),
    "randlora": (RandLoraConfig, {"r": 4}, LINEARS),
    "vera": (VeraConfig, {"r": 4}, LINEARS),
    "pvera": (PveraConfig, {"r": 4}, LINEARS),
    "vb-lora": (VBLoRAConfig, {"r": 4, "num_vectors": 12, "vector_length": 8, "topk": 2}, LINEARS),
    "vb-lora, the best alone": (
        VBLoRAConfig,
        {"r": 4, "num_vectors": 12, "vector_length": 8, "topk": 2, "save_only_topk_weights": True},
        LINEARS,
    ),
    "glora": (GloraConfig, {"r": 4}, LINEARS),
    "glora of vectors": (GloraConfig, {"config_A_B": "vector", "config_C": "vector", "config_D_E": "vector"}, LINEARS),
    "road": (RoadConfig, {"group_size": 8}, LINEARS),
    "road of four": (RoadConfig, {"group_size": 8, "variant": "road_4"}, LINEARS),
    "beft": (BeftConfig, {}, (LINEAR,)),
    "deft": (DeftConfig, {"r": 4}, LINEARS),
    "peanut": (PeanutConfig, {"r": 4}, LINEARS),
    "supertuning": (SupertuningConfig, {"sparsity": 0.9, "save_precomputed_indices": True}, LINEARS),
    "osf": (OSFConfig, {"effective_rank": 4}, LINEARS),
    "ln tuning": (LNTuningConfig, {}, (LINEAR, NORM)),
    "trainable tokens": (TrainableTokensConfig, {"token_indices": [3, 7, 11]}, (TABLE,)),
}


def save(
    cls: Any, options: dict[str, Any], paths: tuple[str, ...], held: dict[str, torch.Tensor], folder: Path
) -> nn.Module:
    """A model with PEFT's layers around base modules, random numbers in them, saved as PEFT saves it."""
    model = nn.Module()
    model.mid_block = nn.Module()
    for path in paths:
        model.mid_block.add_module(path.rpartition(".")[2], build(path, held))
    torch.manual_seed(0)
    leaves = [path.rpartition(".")[2] for path in paths]
    peft = get_peft_model(model, cls(**{"target_modules": leaves, **options}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in peft.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                # Magnitudes and scales are near what they begin as, as they are in trained files.
                near = any(part in key for part in ("magnitude", "ia3_l", "boft_s"))
                parameter.copy_(parameter * (1 + 0.2 * noise) if near else 0.3 * noise)
    peft.save_pretrained(folder)
    made: nn.Module = peft.base_model.model.eval()
    return made


def compare(paths: tuple[str, ...], folder: Path, model: nn.Module, held: dict[str, dict[str, torch.Tensor]]) -> None:
    """Hold what is converted of a folder against PEFT's own layers, merged by themselves."""
    found = convert_saved(folder, held, check=True)
    for path in paths:
        weight, bias = merge(found, path, held)
        inputs, layer = draw_inputs(path), cast("Any", model.get_submodule(path))
        with torch.no_grad():
            layer.merge()
            theirs, before = layer(inputs).double(), build(path, held["unet"])(inputs).double()
        ours = run(path, inputs if MODULES[path].kind == "embedding" else inputs.double(), weight, bias)
        change = (theirs - before).norm()
        assert change > 1e-3 * before.norm(), path
        assert (ours - theirs).norm() <= 1e-5 * change + 5e-7 * before.norm(), path
    assert found.report.check is not None
    assert found.report.check.modules == len(paths)
    assert found.report.check.largest_error < 1e-6
    assert not found.report.lost


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_a_converted_folder_acts_as_pefts_own_layers_do(name: str, tmp_path: Path) -> None:
    held = weights()
    cls, options, paths = (KINDS | OTHERS)[name]
    model = save(cls, options, paths, held["unet"], tmp_path)
    compare(paths, tmp_path, model, held)


#: Kinds that are refused: PEFT's configuration, its options, and the reason.
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "lily": (LilyConfig, {"r": 4}, "it chooses among its factors by the layer's inputs"),
    "uni-lora": (UniLoraConfig, {"r": 4}, "is drawn by chance over all layers"),
    "tinylora": (TinyLoraConfig, {"r": 2}, "follows from the order of all layers"),
    "psoft": (PsoftConfig, {"r": 4}, "singular vectors of the base's weight"),
    "vera without projections": (VeraConfig, {"r": 4, "save_projection": False}, "vera_a, vera_b in the file"),
    "randlora without projections": (RandLoraConfig, {"r": 4, "save_projection": False}, "randlora_a, randlora_b in"),
    "pvera that draws": (PveraConfig, {"r": 4, "sample_at_inference": True}, "nothing that is drawn"),
    "waveft in proportion": (WaveFTConfig, {"n_frequency": 20, "proportional_parameters": True}, "drawn by chance"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_alone_does_not_say_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    held = weights()
    cls, options, reason = REFUSED[name]
    save(cls, options, LINEARS, held["unet"], tmp_path)
    with pytest.raises(UnsupportedFamily, match=reason):
        convert_saved(tmp_path, held, check=True)


@pytest.mark.filterwarnings("ignore")
def test_a_size_that_no_tensor_has_is_refused_before_there_is_room_made_for_it(tmp_path: Path) -> None:
    held = weights()
    save(HRAConfig, {"r": 4}, LINEARS, held["unet"], tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "r": 10**10}), "utf-8")
    with pytest.raises(
        LayerShapeError, match=r"a size that is none of its tensors'.*expected r up to 64, found 100000"
    ):
        convert_saved(tmp_path, held, check=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["without the last weight", "with the last weight", "in memory"])
def test_a_magnitude_is_known_in_each_spelling(how: str, tmp_path: Path) -> None:
    held = weights()
    model = save(*KINDS["dora"], held["unet"], tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {name.replace(".lora_magnitude_vector.weight", ".lora_magnitude_vector"): value
               for name, value in load_file(file).items()}  # fmt: skip
    if how == "with the last weight":
        tensors = {re.sub(r"(magnitude_vector)$", r"\1.weight", name): value for name, value in tensors.items()}
    if how == "in memory":
        tensors = {
            re.sub(r"(lora_[AB]|magnitude_vector)", r"\1.default", name): value for name, value in tensors.items()
        }
    save_file(tensors, file)
    compare(WEIGHTED, tmp_path, model, held)


@pytest.mark.filterwarnings("ignore")
def test_inputs_or_outputs_of_a_square_layer_are_not_guessed_without_the_configuration(tmp_path: Path) -> None:
    held = weights()
    save(IA3Config, {"feedforward_modules": []}, (POINT, SQUARE), held["unet"], tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    # One number a place, as other writers lay them flat.
    tensors = {name: value.flatten() for name, value in load_file(file).items()}
    save_file(tensors, file)
    convert_saved(tmp_path, held)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UnsupportedFamily, match=r"square.*feedforward_modules in adapter_config\.json"):
        convert_saved(tmp_path, held)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("key", "value", "match"), [
    ("peft_type", "LORA", "expected adapter_config.json with peft_type OFT, found LORA"),
    ("oft_block_size", 8, r"is no parameter of PEFT's OFT layer.*\[2, 28\].*\[4, 6\]"),
    ("oft_block_size", "four", "PEFT makes no OFT layer of its configuration"),
])  # fmt: skip
def test_a_configuration_that_is_not_the_tensors_own_is_an_error(
    key: str, value: object, match: str, tmp_path: Path
) -> None:
    held = weights()
    save(OFTConfig, {"oft_block_size": 4}, (LINEAR,), held["unet"], tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), key: value}), "utf-8")
    with pytest.raises(SiHubError, match=match):
        convert_saved(tmp_path, held, check=True)
