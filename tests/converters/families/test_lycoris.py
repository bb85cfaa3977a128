"""Every family of LyCORIS: its own modules, made with random numbers, saved, and merged by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from torch import nn

from tests.converters.tiny import MODULES, convert, merge, stem_of, weights

LINEAR, SQUARE, POINT, CONV, NORM, *_ = MODULES
WEIGHTED = (LINEAR, SQUARE, POINT, CONV)

#: family: a name → (LyCORIS's class, its options, the modules it is made for).
KINDS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "locon": (LoConModule, {"lora_dim": 4, "alpha": 2}, WEIGHTED),
    "locon rs": (LoConModule, {"lora_dim": 4, "alpha": 2, "rs_lora": True}, WEIGHTED),
    "locon tucker": (LoConModule, {"lora_dim": 4, "alpha": 3, "use_tucker": True}, (CONV,)),
    "dora": (LoConModule, {"lora_dim": 4, "weight_decompose": True, "wd_on_out": True}, WEIGHTED),
    "dora on inputs": (LoConModule, {"lora_dim": 4, "weight_decompose": True, "wd_on_out": False}, WEIGHTED),
    "dora tucker": (LoConModule, {"lora_dim": 4, "weight_decompose": True, "use_tucker": True}, (CONV,)),
    "loha": (LohaModule, {"lora_dim": 2, "alpha": 3}, WEIGHTED),
    "loha whole": (LohaModule, {"lora_dim": 12, "alpha": 3}, WEIGHTED),
    "loha tucker": (LohaModule, {"lora_dim": 2, "alpha": 3, "use_tucker": True}, (CONV,)),
    "loha dora": (LohaModule, {"lora_dim": 2, "weight_decompose": True, "wd_on_out": True}, WEIGHTED),
    "loha dora on inputs": (LohaModule, {"lora_dim": 2, "weight_decompose": True, "wd_on_out": False}, WEIGHTED),
    "lokr": (LokrModule, {"lora_dim": 2, "alpha": 3}, WEIGHTED),
    "lokr both": (LokrModule, {"lora_dim": 1, "alpha": 3, "decompose_both": True}, WEIGHTED),
    "lokr tucker": (LokrModule, {"lora_dim": 1, "alpha": 3, "use_tucker": True}, (CONV,)),
    "lokr full": (LokrModule, {"lora_dim": 10000, "alpha": 3, "full_matrix": True}, WEIGHTED),
    "lokr factor": (LokrModule, {"lora_dim": 2, "alpha": 3, "factor": 4}, WEIGHTED),
    "lokr tucker dora": (LokrModule, {"lora_dim": 2, "use_tucker": True, "weight_decompose": True}, (CONV,)),
    "lokr dora": (LokrModule, {"lora_dim": 2, "weight_decompose": True, "wd_on_out": True}, WEIGHTED),
    "lokr dora on inputs": (LokrModule, {"lora_dim": 2, "weight_decompose": True, "wd_on_out": False}, WEIGHTED),
    "ia3": (IA3Module, {}, WEIGHTED),
    "ia3 on inputs": (IA3Module, {"train_on_input": True}, WEIGHTED),
    "glora": (GLoRAModule, {"lora_dim": 3, "alpha": 2}, WEIGHTED),
    "full": (FullModule, {}, WEIGHTED),
    "norm": (NormModule, {}, (NORM,)),
    "diag-oft": (DiagOFTModule, {"lora_dim": 4, "constraint": 0}, WEIGHTED),
    "diag-oft held": (DiagOFTModule, {"lora_dim": 4, "constraint": 1e-2}, WEIGHTED),
    "diag-oft rescaled": (DiagOFTModule, {"lora_dim": 4, "constraint": 0, "rescaled": True}, WEIGHTED),
    "boft": (ButterflyOFTModule, {"lora_dim": 4, "constraint": 0}, WEIGHTED),
    "boft rescaled": (ButterflyOFTModule, {"lora_dim": 4, "constraint": 1e-2, "rescaled": True}, WEIGHTED),
}
CASES = [(name, path) for name, (_, _, paths) in KINDS.items() for path in paths]


def build(path: str, held: dict[str, torch.Tensor]) -> nn.Module:
    """The base module with its numbers."""
    module, weight = MODULES[path], held[f"{path}.weight"]
    out, *rest = module.shape
    made: nn.GroupNorm | nn.Conv2d | nn.Linear | nn.Embedding
    if module.kind == "norm":
        made = nn.GroupNorm(4, out)
    elif module.kind == "embedding":
        made = nn.Embedding(out, rest[0])
    elif module.kind == "conv":
        made = nn.Conv2d(rest[0], out, rest[1], bias=module.bias)
    else:
        made = nn.Linear(rest[0], out, bias=module.bias)
    with torch.no_grad():
        made.weight.copy_(weight)
        if module.bias:
            made.get_parameter("bias").copy_(held[f"{path}.bias"])
    return made


def make(name: str, path: str, held: dict[str, torch.Tensor]) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A base module with a module of LyCORIS at work in it, random numbers in that, and what it saves."""
    cls, options, _ = KINDS[name]
    base = build(path, held)
    module = cls(stem_of(path), base, 1.0, **options)
    module.apply_to()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Magnitudes, whole weights and factors of rows are near what they begin as, as they are in trained files.
            near = "dora" in key or "rescale" in key or name == "full"
            parameter.copy_(parameter * (1 + 0.2 * noise) if near else 0.3 * noise)
    saved = module.custom_state_dict() or module.state_dict()
    return base, {f"{stem_of(path)}.{key}": value.detach() for key, value in saved.items()}


@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{name}, {path.split('.')[1]}" for name, path in CASES])
def test_a_converted_adapter_acts_as_lycoris_own_module_does(name: str, path: str, tmp_path: Path) -> None:
    held = weights()
    base, saved = make(name, path, held["unet"])
    found = convert(tmp_path / "peer.safetensors", saved, held, check=True)
    weight, bias = merge(found, path, held)
    inputs = draw_inputs(path)
    with torch.no_grad():
        theirs, before = base(inputs).double(), build(path, held["unet"])(inputs).double()
    ours = run(path, inputs.double(), weight, bias)
    change = (theirs - before).norm()
    assert change > 1e-3 * before.norm()
    assert (ours - theirs).norm() <= 1e-5 * change + 5e-7 * before.norm()
    assert found.report.check is not None
    assert found.report.check.modules == 1
    assert found.report.check.largest_error < 1e-6
    assert not found.report.lost


def draw_inputs(path: str) -> torch.Tensor:
    shape = MODULES[path].shape
    if MODULES[path].kind == "embedding":
        return torch.arange(shape[0])
    width = shape[0] if MODULES[path].kind == "norm" else shape[1]
    sizes = (3, width) if MODULES[path].kind == "linear" else (2, width, 5, 5)
    return torch.randn(sizes, generator=torch.Generator().manual_seed(1))


def run(path: str, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if MODULES[path].kind == "norm":
        return nn.functional.group_norm(inputs, 4, weight, bias)
    if MODULES[path].kind == "embedding":
        return weight[inputs]
    act: Any = nn.functional.linear if MODULES[path].kind == "linear" else nn.functional.conv2d
    outputs: torch.Tensor = act(inputs, weight, bias)
    return outputs
