"""Write the golden files of format 1.0: ``python tests/golden/make.py FOLDER``.

Together they hold every leaf, dtype width and setting of the format. Values are sixty-fourths, exact in every dtype.
The files under ``1.0/`` stay for ever once 1.0 is released; until then this script may change them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.format import write
from si_hub.storage.tensors import Tensor


def numbers(*shape: int, seed: int = 0, dtype: str = "F32") -> Tensor:
    """A tensor of sixty-fourths between -0.5 and 0.5 that no library's random generator has a part in."""
    count = int(numpy.prod(shape))
    values = (((numpy.arange(count) * 37 + seed * 11 + 5) % 64 - 32) / 64).astype("<f4").reshape(shape)
    if dtype == "BF16":
        return Tensor.from_bytes("BF16", shape, (values.view("<u4") >> 16).astype("<u2").tobytes())
    return Tensor.from_numpy(values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype]))


def pair(n: int, rank: int, out: int, *inner: int, seed: int = 0, dtype: str = "F32") -> dict[str, Tensor]:
    return {
        "down.weight": numbers(n * rank, *inner, seed=seed, dtype=dtype),
        "up.weight": numbers(out, rank, seed=seed + 1, dtype=dtype),
    }


def one_branch() -> Adapter:
    """Linear, 1×1 and 3×3 layers of several ranks; alphas that are the default, a float32, and only a float64."""
    layers = {
        f"down_blocks.{block}.attn.{name}": Layer(pair(1, 2, 6, 4, seed=block, dtype="F16"), alpha=1.0)
        for block in range(3)
        for name in ("to_q", "to_out.0")
    }
    layers["conv_in"] = Layer(pair(1, 3, 5, 4, 3, 3, seed=9, dtype="BF16"), alpha=1.5)
    layers["proj_in"] = Layer(pair(1, 1, 4, 6, 1, 1, seed=7), alpha=0.1)
    return Adapter(
        BaseModel("sd15", "runwayml/stable-diffusion-v1-5", "main", "epsilon", "0" * 64),
        {"unet": Component("UNet2DConditionModel", layers)},
        about={
            "title": "One branch", "author": "si-hub", "license": "CC0-1.0", "tags": ["golden", "ünïcode"],
            "trigger_words": ["golden style"], "preview_prompts": ["a golden cat"],
            "provenance": {
                "source": {"name": "lora.safetensors", "sha256": "1" * 64, "size": 1234}, "family": "lora",
                "naming": "kohya", "alpha_layout": "F32 []", "tool": "si-hub", "exact": True,
            },
            "extensions": {"org.example.note": {"numbers": [1, 2.5, -1e300, 1e21], "text": "\u2028 \"quoted\" \\"}},
        },
        metadata={"ss_network_module": "networks.lora", "ss_tag_frequency": '{"a": {"b": 1}}'},
    )  # fmt: skip


def three_branches() -> Adapter:
    """Named branches, learned and fixed routers, transforms by exception."""
    layers = {}
    for block in range(4):
        for name, size in (("attn1.to_k", 4), ("attn2.to_k", 6)):
            routed = {"router.weight": numbers(3, size, seed=block), "router.bias": numbers(3, seed=block + 1)}
            layers[f"transformer_blocks.{block}.{name}"] = Layer(
                pair(3, 2, 6, size, seed=block) | routed, transform="variance" if block else "restyle"
            )
    layers["time_embedding.linear_1"] = Layer(pair(3, 1, 4, 4) | {"router.bias": numbers(3, seed=3)}, transform="add")
    layers["conv"] = Layer(
        pair(3, 2, 4, 3, 3, 3) | {"router.weight": numbers(3, 3), "router.bias": numbers(3)}, transform="adain"
    )
    return Adapter(
        BaseModel("sdxl"), {"unet": Component("UNet2DConditionModel", layers)}, ("ink", "neon", "oil"),
        {"training": {"steps": 100}, "fidelity": {"relative_error": 0.25}, "provenance": {"error": 0.25}},
    )  # fmt: skip


def kron() -> Adapter:
    """Kronecker products with a low-rank and with a dense right factor, linear and convolution."""
    layers = {
        "to_q": Layer(pair(1, 2, 3, 2) | {"kron": numbers(2, 3, seed=1)}, alpha=4.0),
        "to_k": Layer({"weight_delta": numbers(3, 2, seed=2), "kron": numbers(2, 3, seed=3)}),
        "conv": Layer({"weight_delta": numbers(3, 2, 3, 3, seed=4), "kron": numbers(2, 2, seed=5)}),
        "conv_low": Layer(pair(1, 1, 3, 2, 3, 3) | {"kron": numbers(2, 2, seed=6)}, alpha=4.0),
    }
    return Adapter(BaseModel("flux"), {"transformer": Component("FluxTransformer2DModel", layers)})


def spatial_cores() -> Adapter:
    """Branches with cores of their own over one shared down matrix: 3×3, 1×1 and linear, routed and alone."""
    layers = {
        "conv_in": Layer(
            {"down.weight": numbers(3, 4, 1, 1), "core.weight": numbers(2, 3, 3, 3, seed=1), "up.weight": numbers(6, 2)}
            | {"gain": numbers(6, seed=2), "weight_delta": numbers(6, 4, 3, 3, seed=3)},
            alpha=1.0,
        ),
        "conv_out": Layer(
            {
                "down.weight": numbers(2, 5, 1, 1, dtype="F16"), "core.weight": numbers(6, 2, 3, 1, dtype="F16"),
                "up.weight": numbers(4, 2, dtype="F16"), "router.weight": numbers(3, 5), "router.bias": numbers(3),
            },
            transform="variance",
        ),
        "to_q": Layer(
            {
                "down.weight": numbers(2, 4), "core.weight": numbers(3, 2, seed=4), "up.weight": numbers(6, 1),
                "router.bias": numbers(3),
            },
            alpha=1.0,
        ),
        "proj_in": Layer(
            {"down.weight": numbers(1, 4), "core.weight": numbers(2, 1, 1, 1, seed=5), "up.weight": numbers(6, 2)},
            alpha=1.0,
        ),
    }  # fmt: skip
    return Adapter(BaseModel("sdxl"), {"unet": Component("UNet2DConditionModel", layers)})


def gains_and_deltas() -> Adapter:
    """DoRA's and (IA)³'s gains, dense differences of weights and biases, norms, a bare parameter."""
    layers = {
        "to_q": Layer(pair(1, 2, 6, 4) | {"gain": numbers(6), "bias_delta": numbers(6, seed=1)}, alpha=2.0),
        "to_k": Layer(pair(1, 2, 6, 4) | {"gain_in": numbers(4)}, alpha=2.0),
        "to_v": Layer({"gain": numbers(6), "gain_in": numbers(4, seed=2)}),
        "proj": Layer(
            pair(1, 2, 6, 4, 1, 1) | {"weight_delta": numbers(6, 4, 1, 1), "bias_delta": numbers(6)}, alpha=2
        ),
        "norm": Layer({"weight_delta": numbers(5, dtype="F16"), "bias_delta": numbers(5, seed=1, dtype="F16")}),
        "upsample.conv": Layer({"weight_delta": numbers(2, 3, 4, 4)}),
        "scale_shift_table": Layer({"param_delta": numbers(2, 5)}),
    }
    return Adapter(BaseModel("pixart"), {"transformer": Component(None, layers)})


def turns() -> Adapter:
    """OFT's rotations on outputs and on inputs, alone and beside other leaves."""
    layers = {
        "to_q": Layer({"turn": numbers(3, 2, 2)}),
        "to_k": Layer(pair(1, 2, 6, 4) | {"turn": numbers(2, 3, 3, seed=1), "bias_delta": numbers(6)}, alpha=2.0),
        "to_v": Layer({"turn_in": numbers(2, 2, 2, seed=2), "gain": numbers(6)}),
        "conv": Layer({"turn": numbers(1, 6, 6, seed=3), "turn_in": numbers(4, 1, 1, dtype="F16")}),
    }
    return Adapter(BaseModel("sdxl"), {"unet": Component("UNet2DConditionModel", layers)})


def embeddings() -> Adapter:
    """Two text encoders with textual inversions, one of them with layers, and a component without either."""
    return Adapter(
        BaseModel("sd21", prediction_type="v_prediction"),
        {
            "text_encoder": Component("CLIPTextModel", embeddings={"<cat.v2>": numbers(2, 4), "slöth": numbers(1, 4)}),
            "text_encoder_2": Component(
                "CLIPTextModelWithProjection",
                {"text_model.encoder.layers.0.self_attn.q_proj": Layer(pair(1, 2, 4, 4))},
                {"embedding": numbers(3, 6, dtype="F16")},
            ),
            "unet": Component(None, {"norm": Layer({"bias_delta": numbers(3, dtype="F64")})}),
        },
    )


def exceptions() -> Adapter:
    """Grouped convolutions, alpha that is the rank here and a number there, every transform in one component."""
    layers = {
        f"blocks.{block}.conv": Layer(pair(1, 4, 8, 2, 3, 3, seed=block), groups=1, alpha=None) for block in range(2)
    }
    for block, transform in enumerate(("add", "variance", "restyle", "adain")):
        layers[f"blocks.{block}.attn"] = Layer(pair(1, 2, 4, 4, seed=block), 3.0, transform)  # type: ignore[arg-type]
    for block, groups in ((0, 2), (1, 4)):
        layers[f"blocks.{block}.depthwise"] = Layer(
            {"down.weight": numbers(4, 8, 3, 3), "up.weight": numbers(8, 4 // groups)}, groups=groups
        )
    return Adapter(BaseModel("sd15"), {"unet": Component("UNet2DConditionModel", layers)})


def whole_numbers() -> Adapter:
    """The feature ``int8``: pairs of whole numbers with a scale for each row, beside one of floats."""

    def whole(*shape: int, seed: int) -> Tensor:
        count = int(numpy.prod(shape))
        return Tensor.from_numpy(((numpy.arange(count) * 37 + seed * 11) % 255 - 127).astype("|i1").reshape(shape))

    def whole_pair(rows: int, rank: int, out: int, *inner: int, seed: int) -> dict[str, Tensor]:
        return {
            "down.weight": Tensor.scaled(whole(rows, *inner, seed=seed), numbers(rows, seed=seed)),
            "up.weight": Tensor.scaled(whole(out, rank, seed=seed + 1)),
        }

    layers = {
        "to_q": Layer(whole_pair(2, 2, 6, 4, seed=1)),
        "to_k": Layer(whole_pair(6, 2, 6, 4, seed=2) | {"router.bias": numbers(3)}, alpha=1.0),
        "conv": Layer(whole_pair(2, 2, 5, 4, 3, 3, seed=3) | {"bias_delta": numbers(5, dtype="F16")}),
        "proj": Layer(pair(1, 2, 6, 4, dtype="F16")),
    }
    return Adapter(BaseModel("sd15"), {"unet": Component("UNet2DConditionModel", layers)})


def scheduled() -> Adapter:
    """Weights that change by step: of the adapter over the noise level, of one branch over the steps."""
    pairs = {"attn.to_q": Layer(pair(3, 2, 4, 6) | {"router.bias": numbers(3, seed=3)}, alpha=2.0)}
    schedule = {
        "weight": {"over": "sigma", "points": [[0, 0.25], [1.5, 1], [14.5, 0.5]]},
        "branches": {"neon": {"over": "progress", "points": [[0, 0], [1, 1]]}},
    }
    return Adapter(
        BaseModel("sd15"),
        {"unet": Component("UNet2DConditionModel", pairs)},
        ("ink", "neon", "oil"),
        {"schedule": schedule},
    )


GOLDEN = (
    one_branch, three_branches, kron, spatial_cores, gains_and_deltas, turns, embeddings, exceptions, scheduled,
    whole_numbers,
)  # fmt: skip


def main(folder: Path) -> None:
    for make in GOLDEN:
        write(make(), folder / f"{make.__name__}.safetensors", overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "1.0")
