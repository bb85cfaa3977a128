"""The shipped tables against fresh models, and published parameter counts."""

from __future__ import annotations

import json
from importlib import import_module
from math import prod
from typing import Any, get_args

import pytest

from si_hub import architectures
from si_hub.architectures.folder import frozen_path
from si_hub.architectures.generate import MODELS, TABLES
from si_hub.architectures.model import ModuleKind, load_modules, modules_from_shapes


def live_kinds(model: Any, class_name: str) -> dict[str, str]:
    """Module path → kind, by the class of the live module."""
    from diffusers.models.transformers.transformer_hidream_image import MoEGate
    from torch import nn

    classes: dict[type, str] = {nn.Linear: "linear", nn.Embedding: "embedding", MoEGate: "linear"}
    classes |= {nn.Conv1d: "conv", nn.Conv2d: "conv", nn.Conv3d: "conv"}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own:
            norm = "norm" if "Norm" in type(module).__name__ else "?"
            kind = next((kind for kind_of, kind in classes.items() if isinstance(module, kind_of)), norm)
            found[frozen_path(f"{path}.weight", class_name).removesuffix(".weight")] = kind
    return found


# diffusers' own Chroma uses what diffusers deprecates.
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed.*:FutureWarning")
@pytest.mark.parametrize("table", MODELS)
def test_a_table_holds_the_modules_kinds_and_shapes_of_a_fresh_model(table: str) -> None:
    import torch

    part = MODELS[table]
    class_name = part.class_name
    room = import_module(part.library)
    with torch.device("meta"):
        if part.library == "diffusers":
            model = getattr(room, class_name)(**part.config)
        else:
            kind = getattr(room, class_name)
            model = kind(kind.config_class(**part.config))
    modules = load_modules(json.loads((TABLES / f"{table}.json").read_text(encoding="utf-8"))["modules"])
    expected = {frozen_path(name, class_name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert modules == modules_from_shapes(expected)
    kinds = {path: module.kind for path, module in modules.items() if module.kind != "parameter"}
    assert kinds == live_kinds(model, class_name)
    assert {module.kind for module in modules.values()} <= set(get_args(ModuleKind))


@pytest.mark.parametrize(
    ("architecture", "component", "published"),
    [
        ("sd15", "unet", 859_520_964),
        ("sd15", "text_encoder", 123_060_480),
        ("sd21", "unet", 865_910_724),
        ("sd21", "text_encoder", 340_387_840),
        ("sdxl", "unet", 2_567_463_684),
        ("sdxl", "text_encoder", 123_060_480),
        ("sdxl", "text_encoder_2", 694_659_840),
        ("sdxl-refiner", "unet", 2_259_526_660),
        ("flux", "transformer", 11_901_408_320),
        # T5's embeddings stand under two names.
        ("flux", "text_encoder_2", 4_762_310_656 + 32_128 * 4_096),
        # Its 192 x 192 positions are no parameters, and its files hold them.
        ("sd3", "transformer", 2_028_328_000 + 192**2 * 1_536),
        ("sd3", "text_encoder", 123_060_480 + 768**2),
        ("sd35-large", "transformer", 8_056_627_520 + 192**2 * 2_432),
        ("sd35-medium", "transformer", 2_469_663_936),
    ],
)
def test_a_table_counts_the_published_number_of_parameters(architecture: str, component: str, published: int) -> None:
    modules = architectures.load(architecture).components[component].modules
    assert sum(prod(module.shape) + module.shape[0] * module.bias for module in modules.values()) == published


def test_the_tables_and_the_script_that_writes_them_agree() -> None:
    assert {path.stem for path in TABLES.glob("*.json")} == {*MODELS}
    assert sum(path.stat().st_size for path in TABLES.glob("*.json")) < 300_000
