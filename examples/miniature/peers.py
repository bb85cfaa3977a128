"""Adapter files of the peers, trained by their own code on one style and written in their own formats.

LyCORIS attaches, trains and saves LoRA, LoCon, LoHa, LoKr and DoRA (kohya's names); PEFT LoRA and DoRA, which
diffusers writes as a pipeline saves them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from lycoris import LycorisNetwork, create_lycoris_from_weights
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from .base import Denoising
from .styles import lessons
from .training import Recipe, train

STYLE = "neon"
STEPS, BATCH = 300, 48
RANK = 8
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te_text_model"}


@dataclass(frozen=True)
class Peer:
    """One adapter file.

    Args:
        library: ``lycoris`` or ``peft``, which trains and writes it.
        options: of `LycorisNetwork` or of `LoraConfig`.
        targets: classes of the U-Net's modules that LyCORIS goes into.
        text: whether the text encoder is adapted too.
        rate: peak learning rate.
    """

    library: str
    options: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = CONVOLUTIONS
    text: bool = False
    rate: float = 3e-3


def _lycoris(algorithm: str, **options: Any) -> dict[str, Any]:
    sizes = {"lora_dim": RANK, "alpha": RANK / 2, "conv_lora_dim": RANK, "conv_alpha": RANK / 2}
    return {"network_module": algorithm, **sizes, **options}


PEERS: dict[str, Peer] = {
    "kohya_lora": Peer("lycoris", _lycoris("lora", conv_lora_dim=0), ("Transformer2DModel",), text=True),
    "lycoris_locon": Peer("lycoris", _lycoris("locon")),
    "lycoris_loha": Peer("lycoris", _lycoris("loha", lora_dim=4, conv_lora_dim=4)),
    "lycoris_lokr": Peer("lycoris", _lycoris("lokr", factor=4)),
    "lycoris_dora": Peer("lycoris", _lycoris("locon", weight_decompose=True)),
    "peft_lora": Peer("peft", {"target_modules": [*ATTENTION, "conv1", "conv2"]}),
    "peft_dora": Peer("peft", {"target_modules": [*ATTENTION, "conv1", "conv2"], "use_dora": True}),
}


def lycoris_network(model: nn.Module, component: str, targets: tuple[str, ...], **options: Any) -> LycorisNetwork:
    """A LyCORIS network for one component, under kohya's names; not applied yet."""
    logging.getLogger("LyCORIS").setLevel(logging.WARNING)
    LycorisNetwork.apply_preset(
        {"lora_prefix": PREFIXES[component], "target_module": list(targets), "target_name": [], "enable_conv": True}
    )
    return LycorisNetwork(model, warn_on_unmatched=False, **options)


class Adapting(Denoising):
    """The training loss with adapters of which only their own parameters are trained."""

    def __init__(self, pipe: Any, adapters: Mapping[str, nn.Module]) -> None:
        super().__init__(pipe.unet, pipe.text_encoder, pipe.scheduler)
        self.adapters = nn.ModuleDict(adapters)


def train_peer(pipe: StableDiffusionPipeline, name: str, file: Path, work: Path) -> Callable[[], None]:
    """Trains one of `PEERS` on `STYLE` over the frozen base; what it returns writes the file."""
    peer = PEERS[name]
    recipe = Recipe(f"peer-{name}", STEPS, batch=BATCH, rate=peer.rate, seed=60 + list(PEERS).index(name), average=0.99)
    torch.manual_seed(recipe.seed)
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    networks: dict[str, Any] = {}
    if peer.library == "lycoris":
        networks["unet"] = lycoris_network(pipe.unet, "unet", peer.targets, **peer.options)
        if peer.text:
            kinds = ("CLIPAttention", "CLIPMLP")
            networks["text_encoder"] = lycoris_network(pipe.text_encoder, "text_encoder", kinds, **peer.options)
        for network in networks.values():
            network.apply_to()
            network.requires_grad_(True)
    else:
        pipe.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, **peer.options))
    train(recipe, Adapting(pipe, networks), lessons(pipe, STYLE, work), work)
    file.parent.mkdir(parents=True, exist_ok=True)
    if peer.library == "peft":
        layers = {key: value.half() for key, value in get_peft_model_state_dict(pipe.unet).items()}
        write = StableDiffusionPipeline.save_lora_weights
        return partial(write, file.parent, unet_lora_layers=layers, weight_name=file.name)
    tensors = {key: value.half() for network in networks.values() for key, value in network.state_dict().items()}
    metadata = {
        "ss_network_module": "lycoris.kohya",
        "ss_network_dim": str(peer.options["lora_dim"]),
        "ss_network_alpha": str(peer.options["alpha"]),
        "ss_network_args": json.dumps({"algo": peer.options["network_module"]}),
        "ss_output_name": name,
    }
    return partial(save_file, tensors, file, metadata=metadata)


def load_lycoris(pipe: Any, file: Path) -> None:
    """Applies a file of LyCORIS by LyCORIS itself."""
    logging.getLogger("LyCORIS").setLevel(logging.WARNING)
    weights = {key: value.float() for key, value in load_file(file).items()}
    for component, prefix in PREFIXES.items():
        own = {key: value for key, value in weights.items() if key.startswith(prefix)}
        if own:
            LycorisNetwork.apply_preset({"lora_prefix": prefix})
            network, _ = create_lycoris_from_weights(1.0, "", getattr(pipe, component), own)
            network.apply_to()


def load_diffusers(pipe: Any, file: Path) -> None:
    """Loads a file the way a user of diffusers does."""
    pipe.load_lora_weights(file.parent, weight_name=file.name)


# How the file's own library loads it: diffusers is what reads kohya's and PEFT's LoRAs.
LOADERS: dict[str, Callable[[Any, Path], None]] = {
    name: load_lycoris if name.startswith("lycoris") else load_diffusers for name in PEERS
}
