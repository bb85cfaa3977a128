"""FLUX.2: [dev], and [klein] of two sizes, whose checkpoints with and without distillation are built alike.

Configurations: [dev] is the class's defaults; [klein] as Black Forest Labs' code has it (``Klein4BParams``,
``Klein9BParams``): no guidance embedder, and Qwen3's three layers in place of Mistral's as text.
"""

from __future__ import annotations

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.flux2 import bfl2


def _klein(size: str, *, heads: int, layers: int, single_layers: int, text: int) -> Base:
    """[klein] of ``heads`` of 128, ``text`` wide in its text's features."""
    config = {
        "num_attention_heads": heads, "num_layers": layers, "num_single_layers": single_layers,
        "joint_attention_dim": text, "guidance_embeds": False,
    }  # fmt: skip
    table = f"transformer_flux2_klein_{size}"
    return Base(
        name=f"flux2-klein-{size}",
        title=f"FLUX.2 [klein] {size.upper()}",
        components={"transformer": Blueprint(table, "diffusers", "Flux2Transformer2DModel", config)},
        aliases=(f"klein-{size}", f"flux-2-klein-{size}", f"flux.2-klein-{size}", f"flux2-klein-base-{size}"),
        repositories=(
            f"black-forest-labs/FLUX.2-klein-{size.upper()}", f"black-forest-labs/FLUX.2-klein-base-{size.upper()}",
        ),
        layouts=(bfl2,),
        hints=(
            "Flux.2", "Flux.2 Klein", f"flux2_klein_{size}", f"flux_2_klein_{size}", f"Flux.2-klein-{size}",
            f"Flux.2 Klein {size}",
        ),
        modelspec=f"flux.2-klein-{size}",
        inputs=("x_embedder",),
    )  # fmt: skip


DEV = Base(
    name="flux2-dev",
    title="FLUX.2 [dev]",
    components={"transformer": Blueprint("transformer_flux2_dev", "diffusers", "Flux2Transformer2DModel", {})},
    aliases=("flux2", "flux-2-dev", "flux.2-dev"),
    repositories=("black-forest-labs/FLUX.2-dev",),
    layouts=(bfl2,),
    hints=("Flux.2", "flux2", "flux_2_dev", "Flux.2-dev", "Flux.2 D"),
    modelspec="flux.2-dev",
    inferred="flux-2",
    inputs=("x_embedder",),
)
KLEIN_4B = _klein("4b", heads=24, layers=5, single_layers=20, text=7680)
KLEIN_9B = _klein("9b", heads=32, layers=8, single_layers=24, text=12288)
