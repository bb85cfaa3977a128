"""What the converted layers are worth, against kohya's formula computed from the source in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si_hub import converters
from si_hub.adapter import Layer
from si_hub.architectures import Architecture
from si_hub.architectures.namings import LAYOUTS
from si_hub.converters import Conversion
from si_hub.errors import BaseMismatch, ConversionRefused, FormatError

Arrays = dict[str, Any]
WriteArrays = Callable[..., Path]
MakeSpots = Callable[..., list[Any]]


def merged(layer: Layer) -> Any:
    """ΔW of a layer ``[out, in, *kernel]``, float64, straight from the definition in the format."""
    up = layer.tensors["up.weight"].numpy().astype(np.float64)
    down = layer.tensors["down.weight"].numpy().astype(np.float64)
    flat = layer.scale * up @ down.reshape(down.shape[0], -1)
    return flat.reshape(up.shape[0], *down.shape[1:])


def kohya_delta(arrays: Arrays, stem: str) -> Any:
    """ΔW of a source module by kohya's formula: alpha / rank · up · down; an absent or zero alpha is the rank."""
    down, up = (arrays[f"{stem}.lora_{side}.weight"].astype(np.float64) for side in ("down", "up"))
    rank = down.shape[0]
    alpha = float(arrays[f"{stem}.alpha"].reshape(())) if f"{stem}.alpha" in arrays else rank
    return (alpha or rank) / rank * up.reshape(up.shape[0], rank) @ down.reshape(rank, -1)


def random_lora(spots: list[Any], seed: int, ranks: tuple[int, ...] = (1, 2, 3)) -> Arrays:
    """kohya tensors of random numbers, ranks and alphas for every spot."""
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    for number, spot in enumerate(spots):
        rank = ranks[number % len(ranks)]
        ones = tuple(1 for _ in spot.shape[2:])
        dtype = (np.float16, np.float32)[number % 2]
        arrays[f"{spot.stem}.lora_down.weight"] = random.standard_normal((rank, *spot.shape[1:])).astype(dtype)
        arrays[f"{spot.stem}.lora_up.weight"] = random.standard_normal((spot.shape[0], rank, *ones)).astype(dtype)
        alphas = (np.array(0.5 + number, np.float32), np.array(number, np.int64), np.array([1.5], np.float16), None)
        alpha = alphas[number % 4]
        if alpha is not None:
            arrays[f"{spot.stem}.alpha"] = alpha
    return arrays


def expected_deltas(base: Architecture, spots: list[Any], layout: str, arrays: Arrays) -> dict[tuple[str, str], Any]:
    """(component, base path) → ΔW: rows of kohya's ΔW of the source module, taken by the layout's parts."""
    found: dict[tuple[str, str], Any] = {}
    for spot in spots:
        names = LAYOUTS[layout](base.components[spot.component])
        whole = kohya_delta(arrays, spot.stem)
        for part in names[spot.name]:
            rows = part.rows or ((0, len(whole)),)
            found[spot.component, part.path] = np.concatenate([whole[start:stop] for start, stop in rows])
    return found


def assert_equal_deltas(found: Conversion, expected: dict[tuple[str, str], Any]) -> None:
    layers = {
        (name, path): layer
        for name, component in found.adapter.components.items()
        for path, layer in component.layers.items()
    }
    assert layers.keys() == expected.keys()
    for key, layer in layers.items():
        # The same float64 products; only the order of scale and product may differ.
        np.testing.assert_allclose(
            merged(layer).reshape(expected[key].shape), expected[key], rtol=1e-13, err_msg=str(key)
        )


CASES = [
    ("tiny_sd", "unet", "diffusers", "lora_unet_"),
    ("tiny_sd", "unet", "sgm", "lora_unet_"),
    ("tiny_sd", "text_encoder", "diffusers", "lora_te_"),
    ("tiny_sdxl", "unet", "diffusers", "lora_unet_"),
    ("tiny_sdxl", "unet", "sgm", "lora_unet_"),
    ("tiny_sdxl", "text_encoder_2", "diffusers", "lora_te2_"),
    ("tiny_flux", "transformer", "bfl", "lora_unet_"),
    ("tiny_flux", "transformer", "diffusers", "lora_transformer_"),
    ("tiny_flux", "text_encoder_2", "diffusers", "lora_te3_"),
]


@pytest.mark.parametrize(("fixture", "component", "layout", "prefix"), CASES)
def test_every_module_is_worth_what_kohyas_formula_says(
    fixture: str, component: str, layout: str, prefix: str, request: pytest.FixtureRequest, tmp_path: Path,
    write_arrays: WriteArrays, make_spots: MakeSpots,
) -> None:  # fmt: skip
    base = request.getfixturevalue(fixture)
    spots = make_spots(base, component, layout, prefix)
    arrays = random_lora(spots, 1)
    found = converters.convert_source(write_arrays(tmp_path / "lora.safetensors", arrays), base=base)
    assert_equal_deltas(found, expected_deltas(base, spots, layout, arrays))
    assert set(found.report.uses) == set(arrays)


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_subset_in_any_order_gives_the_same_layers(
    data: st.DataObject, tiny_flux: Architecture, tmp_path_factory: pytest.TempPathFactory, make_spots: MakeSpots
) -> None:
    from safetensors.numpy import save

    everything = make_spots(tiny_flux, "transformer", "bfl", "lora_unet_")
    spots = data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=8, unique=True))
    ranks = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    arrays = random_lora(spots, data.draw(st.integers(0, 99)), ranks)
    shuffled = dict(data.draw(st.permutations(list(arrays.items()))))
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    path.write_bytes(save(shuffled))
    found = converters.convert_source(path, base=tiny_flux)
    assert_equal_deltas(found, expected_deltas(tiny_flux, spots, "bfl", arrays))


def test_the_bytes_of_a_plain_lora_are_spans_of_its_file(
    tmp_path: Path, tiny_flux: Architecture, write_arrays: WriteArrays, make_spots: MakeSpots
) -> None:
    from si_hub.storage.tensors import Span

    spots = make_spots(tiny_flux, "transformer", "bfl", "lora_unet_")
    file = write_arrays(tmp_path / "lora.safetensors", random_lora(spots, 0))
    for layer in converters.convert_source(file, base=tiny_flux).adapter.components["transformer"].layers.values():
        for tensor in layer.tensors.values():
            assert all(isinstance(piece, Span) and piece.path == file for piece in tensor.pieces)


@pytest.mark.parametrize("component", ["conv", "linear"])
def test_pointwise_convolutions_and_linear_layers_stand_for_each_other(
    component: str, tmp_path: Path, tiny_sd: Architecture, tiny_sdxl: Architecture, write_arrays: WriteArrays
) -> None:
    base = tiny_sd if component == "conv" else tiny_sdxl
    path = "down_blocks.0.attentions.0.proj_in"
    module = base.components["unet"].modules[path]
    assert module.kind == component
    ones: tuple[int, ...] = () if component == "conv" else (1, 1)
    random = np.random.default_rng(0)
    arrays = {
        f"lora_unet_{path.replace('.', '_')}.lora_down.weight": random.standard_normal((2, 16, *ones)),
        f"lora_unet_{path.replace('.', '_')}.lora_up.weight": random.standard_normal((16, 2, *ones)),
    }
    layer = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=base)
    found = layer.adapter.components["unet"].layers[path]
    assert found.tensors["down.weight"].shape == (2, *module.shape[1:])
    assert found.tensors["up.weight"].shape == (16, 2)
    assert layer.adapter.about["provenance"]["layout"]["unet"][0]["axes"] == [2 + len(ones)] * 2


def test_full_and_norm_differences_are_copied_as_deltas(
    tmp_path: Path, tiny_sd: Architecture, write_arrays: WriteArrays
) -> None:
    random = np.random.default_rng(0)
    modules = tiny_sd.components["unet"].modules
    arrays: Arrays = {
        "lora_unet_conv_in.diff": random.standard_normal(modules["conv_in"].shape).astype(np.float16),
        "lora_unet_conv_in.diff_b": random.standard_normal(16).astype(np.float16),
        "lora_unet_conv_norm_out.w_norm": random.standard_normal(16),
        "lora_unet_conv_norm_out.b_norm": random.standard_normal(16),
        "lora_unet_mid_block_attentions_0_proj_in.diff": random.standard_normal((32, 32)),
        "lora_unet_conv_out.lora_down.weight": random.standard_normal((2, 16, 3, 3)),
        "lora_unet_conv_out.lora_up.weight": random.standard_normal((4, 2, 1, 1)),
        "lora_unet_conv_out.diff_b": random.standard_normal(4),
    }
    found = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=tiny_sd)
    layers = found.adapter.components["unet"].layers
    assert found.family == "full+norm+lora"
    for path, leaf, name in [
        ("conv_in", "weight_delta", "lora_unet_conv_in.diff"),
        ("conv_in", "bias_delta", "lora_unet_conv_in.diff_b"),
        ("conv_norm_out", "weight_delta", "lora_unet_conv_norm_out.w_norm"),
        ("conv_norm_out", "bias_delta", "lora_unet_conv_norm_out.b_norm"),
        ("mid_block.attentions.0.proj_in", "weight_delta", "lora_unet_mid_block_attentions_0_proj_in.diff"),
        ("conv_out", "bias_delta", "lora_unet_conv_out.diff_b"),
    ]:
        kept = layers[path].tensors[leaf].numpy()
        np.testing.assert_array_equal(kept.reshape(arrays[name].shape), arrays[name])
    assert layers["mid_block.attentions.0.proj_in"].tensors["weight_delta"].shape == (32, 32, 1, 1)


def test_a_fused_difference_is_cut_into_its_rows(
    tmp_path: Path, tiny_flux: Architecture, write_arrays: WriteArrays
) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "lora_unet_double_blocks_0_img_attn_qkv.diff": random.standard_normal((24, 8)),
        "lora_unet_double_blocks_0_img_attn_qkv.diff_b": random.standard_normal(24),
        "lora_unet_final_layer_adaLN_modulation_1.diff": random.standard_normal((16, 8)),
    }
    layers = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=tiny_flux)
    found = layers.adapter.components["transformer"].layers
    whole, bias, swapped = arrays.values()
    for index, name in enumerate(("to_q", "to_k", "to_v")):
        tensors = found[f"transformer_blocks.0.attn.{name}"].tensors
        np.testing.assert_array_equal(tensors["weight_delta"].numpy(), whole[8 * index : 8 * index + 8])
        np.testing.assert_array_equal(tensors["bias_delta"].numpy(), bias[8 * index : 8 * index + 8])
    np.testing.assert_array_equal(
        found["norm_out.linear"].tensors["weight_delta"].numpy(), np.concatenate([swapped[8:], swapped[:8]])
    )


def test_a_textual_inversion_rides_along_to_the_encoder_of_its_width(
    tmp_path: Path, tiny_sdxl: Architecture, write_arrays: WriteArrays
) -> None:
    arrays = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": np.ones((1, 24)),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": np.ones((48, 1)),
        "bundle_emb.my style.string_to_param.*": np.full((2, 32), 3.0),
        "bundle_emb.other.clip_l": np.full((1, 24), 4.0),
        "_aux.weight": np.zeros(3),
    }
    found = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=tiny_sdxl)
    components = found.adapter.components
    assert components["text_encoder_2"].embeddings["my style"].numpy().tolist() == [[3.0] * 32] * 2
    assert components["text_encoder"].embeddings["other"].numpy().tolist() == [[4.0] * 24]
    assert found.report.dropped == {"_aux.weight": "a slider's training aid, not part of the adapter"}


def test_layers_of_rank_zero_are_dropped_by_name(
    tmp_path: Path, tiny_sd: Architecture, write_arrays: WriteArrays
) -> None:
    stem, empty = "lora_unet_mid_block_resnets_0_time_emb_proj", "lora_unet_time_embedding_linear_2"
    arrays = {
        f"{stem}.lora_down.weight": np.ones((1, 64)), f"{stem}.lora_up.weight": np.ones((32, 1)),
        f"{empty}.lora_down.weight": np.ones((0, 64)), f"{empty}.lora_up.weight": np.ones((64, 0)),
    }  # fmt: skip
    found = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=tiny_sd)
    assert set(found.adapter.components["unet"].layers) == {"mid_block.resnets.0.time_emb_proj"}
    assert set(found.report.dropped) == {f"{empty}.lora_down.weight", f"{empty}.lora_up.weight"}
    only_empty = {name: array for name, array in arrays.items() if name.startswith(empty)}
    with pytest.raises(ConversionRefused, match=r"nothing of it has an effect.*rank 0"):
        converters.convert_source(write_arrays(tmp_path / "b.safetensors", only_empty), base=tiny_sd)


def test_a_grouped_convolution_keeps_pefts_shapes(tmp_path: Path, write_arrays: WriteArrays) -> None:
    from si_hub.architectures import Model, Module

    base = Architecture("grouped", {"transformer": Model("T", {"conv": Module("conv", (8, 2, 3, 3), True)})})
    arrays = {
        "transformer.conv.lora_A.weight": np.ones((4, 8, 3, 3)),
        "transformer.conv.lora_B.weight": np.ones((8, 1, 1, 1)),
    }
    layer = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=base)
    found = layer.adapter.components["transformer"].layers["conv"]
    assert (found.groups, found.rank, found.branches) == (4, 4, 1)


def test_a_lora_of_an_embedding_or_norm_is_refused(
    tmp_path: Path, tiny_sd: Architecture, write_arrays: WriteArrays
) -> None:
    stem = "lora_te_text_model_embeddings_token_embedding"
    arrays = {f"{stem}.lora_down.weight": np.ones((1, 24)), f"{stem}.lora_up.weight": np.ones((40, 1))}
    with pytest.raises(BaseMismatch, match="cannot change a base module of kind embedding"):
        converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=tiny_sd)


def test_numbers_of_every_dtype_widen_exactly() -> None:
    import torch

    from si_hub.converters.numbers import as_float64, multiply
    from si_hub.storage.tensors import Tensor

    values = torch.tensor([[0.0, 1.5, -2.0], [0.25, 448.0, -0.5]])
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn):
        held = Tensor.from_torch(values.to(dtype))
        assert as_float64(held).tolist() == values.tolist()
        assert multiply(held, 0.5).numpy().tolist() == (values * 0.5).tolist()
        assert multiply(held, 0.5).dtype == "F32"


def test_a_textual_inversion_goes_to_the_encoder_that_its_name_says(
    tmp_path: Path, tiny_sd: Architecture, write_arrays: WriteArrays
) -> None:
    """Both encoders are of one width here, so the name alone decides."""
    clip = tiny_sd.components["text_encoder"]
    base = Architecture("twins", {**tiny_sd.components, "text_encoder_2": clip})
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    arrays = {
        f"{stem}.lora_down.weight": np.ones((1, 32)), f"{stem}.lora_up.weight": np.ones((32, 1)),
        "bundle_emb.ink.clip_g": np.ones((2, 24)), "bundle_emb.wash.clip_l": np.ones((2, 24)),
    }  # fmt: skip
    adapter = converters.convert_source(write_arrays(tmp_path / "a.safetensors", arrays), base=base).adapter
    assert set(adapter.components["text_encoder_2"].embeddings) == {"ink"}
    assert set(adapter.components["text_encoder"].embeddings) == {"wash"}


def test_a_peft_configuration_beside_a_file_of_another_trainer_is_not_its_own(
    tmp_path: Path, tiny_sd: Architecture, write_arrays: WriteArrays
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 1, "lora_alpha": 8}', encoding="utf-8")
    stem = "unet.mid_block.attentions.0.proj_in"
    for name, sides, scale in (("kohya", ("lora_down", "lora_up"), 1), ("peft", ("lora_A", "lora_B"), 8)):
        arrays = {
            f"{stem}.{side}.weight": array
            for side, array in zip(sides, (np.ones((1, 32)), np.ones((32, 1))), strict=True)
        }
        adapter = converters.convert_source(
            write_arrays(tmp_path / f"{name}.safetensors", arrays), base=tiny_sd
        ).adapter
        [layer] = adapter.components["unet"].layers.values()
        assert layer.scale == scale


def test_a_kronecker_product_of_rank_0_has_no_effect(tmp_path: Path) -> None:
    import torch

    from tests.converters.tiny import convert as convert_tiny
    from tests.converters.tiny import stem_of

    stem, other = stem_of("mid_block.square"), stem_of("mid_block.linear")
    empty = {
        f"{stem}.lokr_w1": torch.ones(2, 2),
        f"{stem}.lokr_w2_a": torch.ones(8, 0),
        f"{stem}.lokr_w2_b": torch.ones(0, 8),
    }
    pair = {f"{other}.lora_down.weight": torch.ones(1, 16), f"{other}.lora_up.weight": torch.ones(32, 1)}
    found = convert_tiny(tmp_path / "lokr.safetensors", empty | pair, None, check=True)
    assert list(found.adapter.components["unet"].layers) == ["mid_block.linear"]
    assert set(found.report.dropped) == set(empty)
    assert not found.report.lost


def test_a_check_that_finds_something_else_is_an_error(tmp_path: Path) -> None:
    import torch

    from si_hub.errors import NotFinite
    from tests.converters.tiny import convert as convert_tiny
    from tests.converters.tiny import stem_of, weights

    stem = stem_of("mid_block.square")
    state = {
        f"{stem}.lora_down.weight": torch.full((1, 16), 1e20), f"{stem}.lora_up.weight": torch.full((16, 1), 1e20),
        f"{stem}.dora_scale": torch.ones(16, 1),
    }  # fmt: skip
    with pytest.raises((ConversionRefused, NotFinite), match=r"recomputing it gives|is no number"):
        convert_tiny(tmp_path / "dora.safetensors", state, weights(), check=True)


def test_coordinates_beyond_a_layer_are_told_whatever_their_dtype(tmp_path: Path) -> None:
    import torch

    from tests.converters.tiny import convert as convert_tiny
    from tests.converters.tiny import stem_of

    stem = stem_of("mid_block.square")

    def read(indices: torch.Tensor, size: tuple[int, int] = (16, 16)) -> None:
        state = {f"{stem}.bias_indices": indices, f"{stem}.bias_values": torch.ones(2)}
        state[f"{stem}.bias_size"] = torch.tensor(size)
        found = convert_tiny(tmp_path / "sparse.safetensors", state, None)
        found.adapter.components["unet"].layers["mid_block.square"].tensors["weight_delta"].tobytes()

    read(torch.tensor([[0, 15], [1, 2]]))
    for indices in ([[0, 65537], [1, 2]], [[0, -65536], [1, 2]], [[0, 2**62], [1, 2]], [[0, 1], [1, 16]]):
        with pytest.raises(FormatError, match="coordinates outside of the layer"):
            read(torch.tensor(indices))
    with pytest.raises(FormatError, match="size of another layer"):
        read(torch.tensor([[0, 1], [1, 2]]), (7, 9))
