"""The peers' extractions of an adapter from two models in memory, and the way their files go into a model.

LyCORIS's is its own installed code, untouched: what its ``extract_locon`` tool calls. kohya's trainer is no package, so
what its ``extract_lora_from_models`` does is written here: which modules, full SVD, the clamp, the threshold.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]

#: kohya's targets: the modules of these classes, and of them every linear layer and convolution.
KOHYA_TARGETS = {
    "unet": ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"),
    "text_encoder": ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"),
}
KOHYA_PREFIXES = {"text_encoder": "lora_te", "unet": "lora_unet"}
KOHYA_CLAMP = 0.99
KOHYA_MIN_DIFF = 0.01


def lycoris(base: Any, tuned: Any, dim: int, *, tucker: bool = True) -> Tensors:
    """LyCORIS's extraction of fixed rank ``dim`` for linear layers and convolutions alike, fp16.

    Args:
        base, tuned: pipelines with a U-Net or a transformer, and text encoders.
        dim: rank.
        tucker: split convolutions into three factors, as LyCORIS does unless told not to.
    """
    from lycoris.utils import extract_diff

    with quiet():
        found: Tensors = extract_diff(
            text_encoders(base), text_encoders(tuned), Weighted(denoiser(base)), Weighted(denoiser(tuned)),
            mode="fixed", linear_mode_param=dim, conv_mode_param=dim, extract_device="cpu", use_bias=False,
            small_conv=tucker,
        )  # fmt: skip
    return found


def denoiser(pipe: Any) -> nn.Module:
    """A pipeline's U-Net or transformer."""
    found = getattr(pipe, "unet", None) or pipe.transformer
    assert isinstance(found, nn.Module)
    return found


def text_encoders(pipe: Any) -> list[nn.Module]:
    """One or two."""
    return [found for name in ("text_encoder", "text_encoder_2") if (found := getattr(pipe, name, None)) is not None]


class Weighted(nn.Module):
    """A model without its modules that have no weight: LyCORIS takes norms of a transformer for such that have."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        return ((name, module) for name, module in self.model.named_modules()
                if getattr(module, "weight", None) is not None)  # fmt: skip


def lycoris_plain(base: Any, tuned: Any, dim: int) -> Tensors:
    """`lycoris` with convolutions in two factors: larger, and closer."""
    return lycoris(base, tuned, dim, tucker=False)


@torch.no_grad()
def kohya(base: Any, tuned: Any, dim: int) -> Tensors:
    """kohya's extraction of rank ``dim`` for linear layers and convolutions alike, fp16.

    A text encoder of which no weight differs by more than `KOHYA_MIN_DIFF` counts as unchanged.
    """
    tensors: Tensors = {}
    for component, prefix in KOHYA_PREFIXES.items():
        changes = dict(differences(getattr(base, component), getattr(tuned, component), KOHYA_TARGETS[component]))
        if component == "text_encoder" and max(change.abs().max() for change in changes.values()) <= KOHYA_MIN_DIFF:
            continue
        for path, change in changes.items():
            stem = f"{prefix}_{path.replace('.', '_')}"
            up, down = truncated_and_clamped(change, dim)
            tensors |= {
                f"{stem}.lora_up.weight": up.half().contiguous(),
                f"{stem}.lora_down.weight": down.half().contiguous(),
                f"{stem}.alpha": torch.tensor(float(len(down))).half(),
            }
    return tensors


def truncated_and_clamped(change: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``up [out, rank]`` and ``down [rank, in]`` of a linear layer's change, ``[out, rank, 1, 1]`` and ``[rank, in, kh,
    kw]`` of a convolution's; all singular values on ``up``, both cut at the 0.99 quantile of their entries."""
    rank = min(dim, *change.shape[:2])
    up, values, down = torch.linalg.svd(change.flatten(1).float())
    up, down = up[:, :rank] * values[:rank], down[:rank]
    limit = torch.quantile(torch.cat([up.flatten(), down.flatten()]), KOHYA_CLAMP)
    up, down = up.clamp(-limit, limit), down.clamp(-limit, limit)
    if change.ndim == 4:
        return up[:, :, None, None], down.reshape(rank, *change.shape[1:])
    return up, down


def differences(base: nn.Module, tuned: nn.Module, targets: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    """Path and weight difference of every linear layer and convolution inside modules of the target classes."""
    others = dict(tuned.named_modules())
    seen = set()
    for name, module in base.named_modules():
        if type(module).__name__ in targets:
            for child_name, child in module.named_modules():
                path = f"{name}.{child_name}".strip(".")
                if isinstance(child, nn.Linear | nn.Conv2d) and path not in seen:
                    seen.add(path)
                    yield path, others[path].weight.float() - child.weight.float()


def put_in(pipe: Any, tensors: Tensors) -> None:
    """Merges a file of either peer into a pipeline, by LyCORIS's own code."""
    from lycoris.utils import merge

    encoders = text_encoders(pipe)
    with quiet():
        if len(encoders) == 1:
            merge(encoders, denoiser(pipe), dict(tensors))
            return
        # With several text encoders LyCORIS renames the U-Net's keys to ones that diffusers' modules do not have.
        merge([], denoiser(pipe), {key: value for key, value in tensors.items() if key.startswith("lora_unet_")})
        for number, encoder in enumerate(encoders, 1):
            own = f"lora_te{number}_"
            named = {f"lora_te_{key.removeprefix(own)}": value for key, value in tensors.items() if key.startswith(own)}
            merge([encoder], nn.Module(), named)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What LyCORIS prints is not ours to show."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


EXTRACTORS: dict[str, Callable[[Any, Any, int], Tensors]] = {
    "kohya": kohya,
    "lycoris": lycoris,
    "lycoris-plain": lycoris_plain,
}
