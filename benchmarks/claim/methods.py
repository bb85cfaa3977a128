"""What learns: PEFT's and LyCORIS's adapters by their own code, and ours, each of about as many parameters."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from si_hub.training.dealing import deal_ranks, even_numbers, first_reads
from si_hub.training.settings import LAYERS
from si_hub.training.surveying import Pull
from si_hub.tuner.config import StyleInjectConfig
from si_hub.tuner.layer import CHILD

LINEAR, ALL = list(LAYERS["linear"]), list(LAYERS["all"])
CONVOLUTIONS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "conv_shortcut"]
#: Rank of the LoRA on linear layers that all methods are as large as.
RANK = 8
NAME = "claim"
#: Peak learning rates that are searched; a method's own are these times its `Method.pace`.
RATES = (2e-3, 4e-3, 8e-3)


@dataclass(frozen=True)
class Method:
    """A way to adapt the U-Net.

    Args:
        name: as the tables have it.
        kind: ``peft``, ``lycoris`` or ``styleinject``.
        options: of its configuration.
        fitted: whether ranks and first directions are those that a survey finds.
        pace: factor of the learning rates that are tried first.
        longer: factor of the task's steps.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    fitted: bool = False
    pace: float = 1.0
    longer: float = 1.0


def _lora(name: str, *, fitted: bool = False, longer: float = 1.0, **options: Any) -> Method:
    return Method(name, "peft", {"type": "LoraConfig", **options}, fitted, longer=longer)


def _ours(name: str, *, fitted: bool = True, **options: Any) -> Method:
    return Method(name, "styleinject", options, fitted)


LORAS = (
    _lora("LoRA, linear layers", r=RANK, lora_alpha=RANK, target_modules=LINEAR),
    _lora("LoRA, all layers", r=3, lora_alpha=3, target_modules=ALL),
    _lora("LoRA, attention and convolutions", r=3, lora_alpha=3, target_modules=CONVOLUTIONS),
)
PEERS = (
    *LORAS,
    _lora("rsLoRA", r=RANK, lora_alpha=RANK, use_rslora=True, target_modules=LINEAR),
    _lora("DoRA", r=RANK, lora_alpha=RANK, use_dora=True, target_modules=LINEAR),
    Method("OFT", "peft", {"type": "OFTConfig", "r": 0, "oft_block_size": 48, "target_modules": LINEAR}, pace=2.0),
    Method("LoHa (LyCORIS)", "lycoris", {"network_module": "loha", "lora_dim": 4, "alpha": 4.0}, pace=2.0),
    Method(
        "LoKr (LyCORIS)", "lycoris", {"network_module": "lokr", "lora_dim": 12, "alpha": 12.0, "factor": 2}, pace=2.0
    ),
)
OURS = (
    _ours("fitted", transform="add"),
    _ours("fitted variance", transform="variance"),
    _ours("fitted restyle", transform="restyle"),
    _ours("fitted adain", transform="adain"),
    _ours("fitted n=2, learned", transform="add", num_branches=2, router="learned"),
    _ours("fitted n=4, learned", transform="add", num_branches=4, router="learned"),
    _ours("fitted n=2, fixed", transform="add", num_branches=2, router="fixed"),
)
#: Parts of what wins: the same ranks in a LoRA of PEFT's, our operator at one rank everywhere, and a LoRA that learns
#: for as long as a survey takes besides: 32 batches forward and backward, with the weights' own gradients.
PARTS = (
    _lora("LoRA with the fitted ranks", fitted=True, lora_alpha=RANK, r=RANK),
    _ours("one rank, linear layers", fitted=False, r=RANK, transform="add", target_modules=LINEAR),
    _lora("LoRA, all layers, 140 steps", longer=140 / 100, r=3, lora_alpha=3, target_modules=ALL),
)
#: Every transform with every number of branches and kind of router, for `make claim-full`.
GRID = tuple(
    _ours(f"fitted {transform} n={count}, {router}", transform=transform, num_branches=count, router=router)
    for transform in ("add", "variance", "restyle", "adain")
    for count in (2, 4)
    for router in ("fixed", "learned")
)
METHODS: dict[str, Method] = {method.name: method for method in (*PEERS, *OURS, *PARTS, *GRID)}


def attach(
    method: Method, base: nn.Module, pulls: Mapping[str, Pull], seed: int
) -> tuple[nn.Module, list[nn.Parameter]]:
    """A copy of the U-Net with a fresh adapter, and what is trained of it."""
    unet = copy.deepcopy(base)
    torch.manual_seed(seed)
    return unet, _ATTACH[method.kind](method, unet, pulls)


def _ranks(method: Method, pulls: Mapping[str, Pull]) -> dict[str, int]:
    counted = {path: pull for path, pull in pulls.items() if any(path.endswith(end) for end in LINEAR)}
    return deal_ranks(pulls, even_numbers(counted, RANK), int(method.options.get("num_branches", 1)))


def _attach_peft(method: Method, unet: Any, pulls: Mapping[str, Pull]) -> list[nn.Parameter]:
    import peft

    options = {name: value for name, value in method.options.items() if name != "type"}
    ranks = _ranks(method, pulls) if method.fitted else {}
    if ranks:
        alphas = {path: float(rank) for path, rank in ranks.items()}
        options |= {"rank_pattern": ranks, "alpha_pattern": alphas, "target_modules": sorted(ranks)}
    unet.add_adapter(getattr(peft, method.options["type"])(**options), adapter_name=NAME)
    for path, rank in ranks.items():
        down = unet.get_submodule(f"{path}.lora_A.{NAME}").weight
        down.data.copy_(first_reads(pulls[path], rank, 1, down.data))
    return [value for value in unet.parameters() if value.requires_grad]


def _attach_lycoris(method: Method, unet: Any, pulls: Mapping[str, Pull]) -> list[nn.Parameter]:
    from lycoris import LycorisNetwork

    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    LycorisNetwork.apply_preset(
        {"lora_prefix": "lora_unet", "target_module": ["Transformer2DModel"], "target_name": [], "enable_conv": True}
    )
    network = LycorisNetwork(unet, warn_on_unmatched=False, **method.options)
    network.apply_to()
    unet.lycoris_network = network  # It has to live as long as the model, which calls it.
    return [value.requires_grad_(True) for part in network.loras for value in part.parameters()]


def _attach_styleinject(method: Method, unet: Any, pulls: Mapping[str, Pull]) -> list[nn.Parameter]:
    options, count = dict(method.options), int(method.options.get("num_branches", 1))
    ranks = _ranks(method, pulls) if method.fitted else {}
    if ranks:
        options |= {"rank_pattern": ranks, "target_modules": sorted(ranks)}
    unet.add_adapter(StyleInjectConfig(**options), adapter_name=NAME)
    for path, rank in ranks.items():
        down = unet.get_submodule(f"{path}.{CHILD}.{NAME}.down").weight
        down.data.copy_(first_reads(pulls[path], rank, count, down.data))
    return [value for value in unet.parameters() if value.requires_grad]


_ATTACH: dict[str, Callable[[Method, Any, Mapping[str, Pull]], list[nn.Parameter]]] = {
    "peft": _attach_peft, "lycoris": _attach_lycoris, "styleinject": _attach_styleinject,
}  # fmt: skip
