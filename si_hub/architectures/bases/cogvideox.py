"""CogVideoX. Releases that start from a picture have twice the input channels, 1.5 a patch in time."""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint

_LARGE: dict[str, Any] = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
_HINTS = ("CogVideoX$", "cogvideox$")
_INPUTS = ("patch_embed.proj",)


def _transformer(table: str, **config: Any) -> Blueprint:
    return Blueprint(table, "diffusers", "CogVideoXTransformer3DModel", config)


TWO = Base(
    name="cogvideox-2b",
    title="CogVideoX 2B",
    components={"transformer": _transformer("transformer_cogvideox_2b")},
    repositories=("zai-org/CogVideoX-2b",),
    hints=(*_HINTS, "cogvideox-2b", "CogVideoX-2b"),
    inputs=_INPUTS,
)
FIVE = Base(
    name="cogvideox-5b",
    title="CogVideoX 5B",
    components={"transformer": _transformer("transformer_cogvideox_5b", **_LARGE)},
    aliases=("cogvideox", "cogvideox-5b-i2v"),
    repositories=("zai-org/CogVideoX-5b", "zai-org/CogVideoX-5b-I2V"),
    hints=(*_HINTS, "cogvideox-5b", "CogVideoX-5b"),
    inputs=_INPUTS,
)
FIVE_1_5 = Base(
    name="cogvideox1.5-5b",
    title="CogVideoX 1.5 5B",
    components={"transformer": _transformer("transformer_cogvideox15_5b", **_LARGE, patch_size_t=2, patch_bias=False)},
    aliases=("cogvideox-1.5", "cogvideox1.5", "cogvideox-1.5-5b"),
    repositories=("zai-org/CogVideoX1.5-5B", "zai-org/CogVideoX1.5-5B-I2V"),
    hints=(*_HINTS, "cogvideox1.5-5b", "CogVideoX1.5-5B"),
)
