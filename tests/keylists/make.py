"""Makes the key lists beside it: ``python -m tests.keylists.make [NAME...]``; `git diff` then shows what changed.

Every list is what a peer's own code calls its tensors: LyCORIS, PEFT and diffusers put their layers into base models of
full size on the meta device, so nothing is downloaded. What is expected of a list is what its recipe and the peer say:
the base, the family, and how many modules the peer adapted.
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from si_hub.architectures.bases import BY_NAME
from tests.keylists.folding import Tensors, write_list

FOLDER = Path(__file__).parent
State = Mapping[str, torch.Tensor]
#: A peer's tensors, and how many modules it adapted.
Made = tuple[State, int]

DIM = {"network_dim": 8, "network_alpha": 4.0, "conv_dim": 4, "conv_alpha": 1.0}
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
BLOCKS = [*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut"]
BLOCK_CLASSES = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


@cache
def build(base: str, component: str) -> nn.Module:
    """A base model's component at its full size, without memory."""
    part = BY_NAME[base].components[component]
    kind = getattr(import_module(part.library), part.class_name)
    with torch.device("meta"):
        model = kind(**part.config) if part.library == "diffusers" else kind(kind.config_class(**part.config))
    found: nn.Module = model.requires_grad_(False)
    return found


def lycoris(base: str, algorithm: str, preset: str = "blocks", **options: Any) -> Made:
    """LyCORIS by its entry for kohya's trainer, into the UNet and all text encoders."""
    from lycoris.config import PRESET
    from lycoris.kohya import create_network

    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    # Its preset names the last words of modules, and it compares the first.
    ia3 = PRESET["ia3"]
    PRESET["ia3 everywhere"] = {
        **ia3, "unet_target_name": [f".*{end}" for end in ia3["unet_target_name"]],
        "text_encoder_target_name": [f".*{end}" for end in ia3["text_encoder_target_name"]],
        "name_algo_map": {f".*{end}": told for end, told in ia3["name_algo_map"].items()},
    }  # fmt: skip
    PRESET["blocks"] = {**PRESET["full"], "unet_target_module": BLOCK_CLASSES, "unet_target_name": []}
    texts = [build(base, name) for name in BY_NAME[base].components if name.startswith("text_encoder")]
    # What it asks of a weight it asks of a copy on the CPU, and there is nothing to copy.
    with patch.object(torch.Tensor, "cpu", lambda tensor: tensor):
        network = create_network(
            1.0, vae=None, text_encoder=texts if len(texts) > 1 else texts[0], unet=build(base, "unet"),
            warn_on_unmatched=False, algo=algorithm, preset=preset, **{**DIM, **options},
        )  # fmt: skip
        # As kohya's trainer does before it saves, but the forward of the base model stays as it is.
        for one in network.loras:
            network.add_module(one.lora_name, one)
        return network.state_dict(), len(network.loras)


def peft(base: str, kind: str, component: str = "unet", **options: Any) -> Made:
    """`get_peft_model` of one component, as its `save_pretrained` names the tensors."""
    import peft as library
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = library.get_peft_model(build(base, component), getattr(library, kind)(**options))
    state = library.get_peft_model_state_dict(tuned)
    count = sum(isinstance(module, BaseTunerLayer) for module in tuned.modules())
    tuned.unload()
    return state, count


def diffusers(base: str, **options: Any) -> Made:
    """LoRA of the UNet and the text encoders, as `save_lora_weights` of diffusers writes it."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig

    found: dict[str, torch.Tensor] = {}
    count = 0
    for component in BY_NAME[base].components:
        targets = ATTENTION if component == "unet" else TEXT
        state, adapted = peft(base, LoraConfig.__name__, component, target_modules=targets, **options)
        plain = {name.removeprefix("base_model.model."): value for name, value in state.items()}
        plain = convert_state_dict_to_diffusers(plain)
        found |= {f"{component}.{name}": value for name, value in plain.items()}
        count += adapted
    return found, count


@dataclass(frozen=True)
class Recipe:
    """How a list is made.

    Attributes:
        base: the base model.
        families: what si-hub is to find in it, the most frequent first.
        make: the peer at work.
    """

    base: str
    families: str
    make: Callable[[], Made]


def of_lycoris(base: str, families: str, algorithm: str, **options: Any) -> Recipe:
    return Recipe(base, families, partial(lycoris, base, algorithm, **options))


def of_peft(families: str, kind: str, targets: list[str], **options: Any) -> Recipe:
    return Recipe("sd15", families, partial(peft, "sd15", kind, target_modules=targets, **options))


def of_diffusers(base: str, families: str, **options: Any) -> Recipe:
    return Recipe(base, families, partial(diffusers, base, **options))


LISTS: dict[str, Recipe] = {
    "lycoris_locon_sd15": of_lycoris("sd15", "lora", "locon"),
    "lycoris_locon_scalar_rs_sd15": of_lycoris("sd15", "lora", "locon", use_scalar=True, rs_lora=True),
    "lycoris_locon_tucker_sd15": of_lycoris("sd15", "lora+locon-tucker", "locon", use_tucker=True),
    "lycoris_locon_dora_sdxl": of_lycoris("sdxl", "dora", "locon", dora_wd=True),
    "lycoris_locon_sdxl": of_lycoris("sdxl", "lora", "locon"),
    "lycoris_locon_sd21": of_lycoris("sd21", "lora", "locon"),
    "lycoris_loha_sd15": of_lycoris("sd15", "loha", "loha"),
    "lycoris_loha_tucker_sd15": of_lycoris("sd15", "loha", "loha", use_tucker=True),
    "lycoris_lokr_sd15": of_lycoris("sd15", "lokr", "lokr", factor=8),
    "lycoris_lokr_full_matrix_sd15": of_lycoris("sd15", "lokr", "lokr", full_matrix=True),
    "lycoris_lokr_dora_sdxl": of_lycoris("sdxl", "dora", "lokr", factor=8, dora_wd=True),
    "lycoris_glora_sd15": of_lycoris("sd15", "glora", "glora"),
    "lycoris_ia3_sd15": of_lycoris("sd15", "ia3-lycoris", "ia3", preset="ia3 everywhere"),
    "lycoris_full_norm_sd15": of_lycoris("sd15", "full+norm", "full", train_norm=True),
    "lycoris_diag_oft_sd15": of_lycoris("sd15", "oft", "diag-oft", constraint=0.001, rescaled=True),
    "lycoris_boft_sd15": of_lycoris("sd15", "oft", "boft", network_dim=10, conv_dim=10),
    "lycoris_dylora_sd15": of_lycoris("sd15", "lora", "dylora"),
    "peft_lora_sd15": of_peft("lora", "LoraConfig", BLOCKS),
    "peft_dora_sd15": of_peft("dora", "LoraConfig", ATTENTION, use_dora=True),
    "peft_loha_sd15": of_peft("loha", "LoHaConfig", BLOCKS),
    "peft_lokr_sd15": of_peft("lokr", "LoKrConfig", BLOCKS),
    "peft_oft_sd15": of_peft("oft-peft", "OFTConfig", ATTENTION),
    "peft_boft_sd15": of_peft("boft-peft", "BOFTConfig", ATTENTION),
    "peft_ia3_sd15": of_peft("ia3-peft", "IA3Config", ["to_k", "to_v"], feedforward_modules=[]),
    "diffusers_lora_sd15": of_diffusers("sd15", "lora"),
    "diffusers_lora_sdxl": of_diffusers("sdxl", "lora"),
    "diffusers_dora_sdxl": of_diffusers("sdxl", "dora", use_dora=True),
}


def make_list(name: str) -> tuple[dict[str, Any], Tensors]:
    """What a list says, and its tensors, made anew."""
    recipe = LISTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state, modules = recipe.make()
    tensors = {key: (str(value.dtype).removeprefix("torch."), tuple(value.shape)) for key, value in state.items()}
    return {"base": recipe.base, "families": recipe.families, "modules": modules}, tensors


def main(names: list[str]) -> None:
    for name in names or LISTS:
        about, tensors = make_list(name)
        write_list(FOLDER / f"{name}.json", {"source": versions(), **about}, tensors)
        print(f"{name}: {len(tensors)} tensors, {about['modules']} modules")


def versions() -> str:
    libraries = ("lycoris-lora", "peft", "diffusers", "transformers")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)


if __name__ == "__main__":
    main(sys.argv[1:])
