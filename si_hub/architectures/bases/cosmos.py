"""Cosmos Predict2 and 2.5, whose releases that go on from a picture have one input channel more."""

from __future__ import annotations

from typing import Any

from si_hub.architectures.bases.contract import Base, Blueprint
from si_hub.architectures.layouts.cosmos import predict2

_SMALL: dict[str, Any] = {"num_attention_heads": 16, "num_layers": 28, "extra_pos_embed_type": None}
_LARGE: dict[str, Any] = {"num_attention_heads": 40, "num_layers": 36, "extra_pos_embed_type": None}
#: 2.5 goes on from a picture and reads every layer of its language model.
_WIDE: dict[str, Any] = {"in_channels": 17, "use_crossattn_projection": True, "crossattn_proj_in_channels": 100352}
_INPUTS = ("patch_embed.proj",)


def _transformer(table: str, config: dict[str, Any]) -> Blueprint:
    return Blueprint(table, "diffusers", "CosmosTransformer3DModel", config)


#: Anima's too.
PREDICT2_2B_TRANSFORMER = _transformer("transformer_cosmos_predict2_2b", _SMALL)

PREDICT2_2B = Base(
    name="cosmos-predict2-2b",
    title="Cosmos Predict2 2B",
    components={"transformer": PREDICT2_2B_TRANSFORMER},
    aliases=("cosmos-predict2", "cosmos2"),
    repositories=("nvidia/Cosmos-Predict2-2B-Text2Image", "nvidia/Cosmos-Predict2-2B-Video2World"),
    layouts=(predict2,),
    hints=("cosmos-predict2-2b", "Cosmos-Predict2-2B"),
    inferred="cosmos-2.0",
    inputs=_INPUTS,
)
PREDICT2_14B = Base(
    name="cosmos-predict2-14b",
    title="Cosmos Predict2 14B",
    components={"transformer": _transformer("transformer_cosmos_predict2_14b", _LARGE)},
    repositories=("nvidia/Cosmos-Predict2-14B-Text2Image", "nvidia/Cosmos-Predict2-14B-Video2World"),
    layouts=(predict2,),
    hints=("cosmos-predict2-14b", "Cosmos-Predict2-14B"),
    inferred="cosmos-2.0",
    inputs=_INPUTS,
)
PREDICT25_2B = Base(
    name="cosmos-predict2.5-2b",
    title="Cosmos Predict2.5 2B",
    components={"transformer": _transformer("transformer_cosmos_predict25_2b", _SMALL | _WIDE)},
    aliases=("cosmos-predict2.5", "cosmos2.5"),
    repositories=("nvidia/Cosmos-Predict2.5-2B",),
    layouts=(predict2,),
    hints=("cosmos-predict2.5-2b", "Cosmos-Predict2.5-2B"),
    inputs=_INPUTS,
)
PREDICT25_14B = Base(
    name="cosmos-predict2.5-14b",
    title="Cosmos Predict2.5 14B",
    components={"transformer": _transformer("transformer_cosmos_predict25_14b", _LARGE | _WIDE)},
    repositories=("nvidia/Cosmos-Predict2.5-14B",),
    layouts=(predict2,),
    hints=("cosmos-predict2.5-14b", "Cosmos-Predict2.5-14B"),
    inputs=_INPUTS,
)
