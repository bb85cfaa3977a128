"""Masks at the resolution of each layer, on a UNet and a transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

import si_hub
from si_hub import Act
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import UsageError
from si_hub.storage.tensors import Tensor as Stored
from si_hub.tuner.regions import Places, mask_at, scene_of

LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1


class Bare(DiffusionPipeline):
    """A pipeline of nothing but its denoiser."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser)


def unet() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=8, cross_attention_dim=8, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    given = torch.randn(2, 4, 8, 6).double(), torch.tensor([10, 500]), torch.randn(2, 48, 8).double()
    return model, lambda model: model(*given).sample


def flux() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    places = torch.stack([torch.zeros(24), torch.arange(24) // 6, torch.arange(24) % 6], 1).double()
    given = {
        "hidden_states": torch.randn(2, 24, 4), "encoder_hidden_states": torch.randn(2, 5, 16),
        "pooled_projections": torch.randn(2, 16), "timestep": torch.tensor([0.1, 0.9]), "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip
    given = {name: value.double() for name, value in given.items()}
    return model, lambda model: model(**given, img_ids=places).sample


def sd3() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        caption_projection_dim=16, joint_attention_dim=16, pooled_projection_dim=16, pos_embed_max_size=8,
    )  # fmt: skip
    given = {
        "hidden_states": torch.randn(2, 4, 8, 6), "encoder_hidden_states": torch.randn(2, 5, 16),
        "pooled_projections": torch.randn(2, 16), "timestep": torch.tensor([10.0, 500.0]),
    }  # fmt: skip
    given = {name: value.double() for name, value in given.items()}
    return model, lambda model: model(**given).sample


ENDS = {
    unet: ("to_q", "attn2.to_k", "conv1", "conv2", "ff.net.2", "time_emb_proj", "downsamplers.0.conv", "proj_in"),
    flux: ("to_q", "add_k_proj", "ff.net.2", "ff_context.net.2", "proj_mlp", "proj_out", "norm.linear", "x_embedder"),
    sd3: ("to_q", "add_k_proj", "ff.net.2", "norm1.linear", "proj_out"),
}


def load(build: Any, ends: tuple[str, ...] | None = None) -> tuple[Any, Callable[[], Tensor]]:
    si_hub.enable()
    torch.manual_seed(0)
    model, run = build()
    model.eval().double()
    layers = {}
    for path, module in model.named_modules():
        if path.endswith(ends or ENDS[build]) and isinstance(module, nn.Linear | nn.Conv2d):
            down = torch.randn(4, *module.weight.shape[1:]).double() / module.weight[0].numel() ** 0.5
            tensors = {"down.weight": down, "up.weight": torch.randn(module.weight.shape[0], 2).double() / 3}
            tensors["router.bias"] = torch.zeros(2).double()
            layers[path] = Layer({leaf: Stored.from_torch(value) for leaf, value in tensors.items()})
    pipe: Any = Bare(model)
    made = Adapter(BaseModel("test"), {"denoiser": Component(None, layers)}, ("ink", "neon"))
    pipe.load_styleinject_weights(made, "a", allow_components=["denoiser"])
    return pipe, lambda: torch.no_grad()(run)(model)


@pytest.mark.parametrize("build", [unet, flux, sd3])
def test_masks_that_add_up_to_one_are_no_mask_and_zeros_are_the_base(build: Any) -> None:
    pipe, run = load(build)
    whole = run()
    with pipe.styleinject(Act("a", mask=torch.ones(3, 5), elsewhere=1.0)):
        assert torch.allclose(run(), whole, rtol=0, atol=1e-12)
    slope = torch.rand(8, 8)
    with pipe.styleinject([Act("a", mask=slope, elsewhere=0.25), Act("a", mask=1 - slope, elsewhere=0.75)]):
        assert torch.allclose(run(), whole, rtol=0, atol=1e-7)
    with pipe.styleinject(Act("a", mask=torch.zeros(8, 8))):
        nothing = run()
    with pipe.styleinject([]):
        assert torch.equal(run(), nothing)


@pytest.mark.parametrize(
    ("build", "end", "tokens"),
    [
        (unet, "down_blocks.1.resnets.0.conv1", False),
        (unet, "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", True),
        (flux, "transformer_blocks.0.attn.to_q", True),
        (flux, "single_transformer_blocks.0.proj_mlp", True),
        (sd3, "transformer_blocks.0.attn.to_q", True),
    ],
)
def test_in_a_layer_the_inside_is_the_whole_contribution_and_the_outside_the_base(
    build: Any, end: str, tokens: bool
) -> None:
    pipe, run = load(build, (end,))
    seen: list[Tensor] = []
    module = pipe.denoiser.get_submodule(end)
    module.register_forward_hook(lambda _, args, output: seen.append(output))
    asks: list[Any] = [[], "a", Act("a", mask=LEFT)]
    requests = [pipe.styleinject(asked) for asked in asks]
    for request in requests:
        with request:
            run()
    base, whole, masked = seen
    if tokens:
        text = base.shape[1] % 12
        assert torch.equal(masked[:, :text], base[:, :text])
        columns = 3 if build is sd3 else 6
        shape = len(base), -1, columns, base.shape[-1]
        base, whole, masked = (one[:, text:].reshape(shape).movedim(-1, 1) for one in seen)
    half = base.shape[-1] // 2
    assert torch.equal(masked[..., :half], whole[..., :half])
    assert torch.equal(masked[..., -half:], base[..., -half:])
    assert not torch.equal(whole[..., -half:], base[..., -half:])


def test_rows_have_their_own_masks_and_styles_their_own_places() -> None:
    pipe, run = load(unet)
    rows: list[Any] = [
        [Act("a", 1.0, {"ink": 1.0}, LEFT), Act("a", 1.0, {"neon": 1.0}, 1 - LEFT)],
        Act("a", 0.5, mask=torch.rand(5, 5), elsewhere=0.5),
    ]
    with pipe.styleinject(rows=rows):
        together = run()
    for number, row in enumerate(rows):
        with pipe.styleinject(row):
            assert torch.allclose(run()[number], together[number], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (Act("a", mask=torch.ones(3)), r"a mask is a tensor.*expected \[H, W\], found \[3\]"),
        (Act("a", mask=torch.full((2, 2), float("nan"))), "a mask is a tensor of finite numbers"),
        (Act("a", mask="left"), "found str"),  # type: ignore[arg-type]
        (Act("a", mask=LEFT, elsewhere=float("inf")), "elsewhere is a finite number"),
        ([Act("a", mask=LEFT), Act("a")], r"a: an adapter is named twice.*Each may have a mask"),
    ],
)
def test_what_is_no_mask_is_an_error(act: Any, words: str) -> None:
    pipe, _ = load(unet, ("conv_in",))
    with pytest.raises(UsageError, match=words), pipe.styleinject(act):
        pass


def test_a_layer_whose_places_are_not_known_is_refused() -> None:
    masks, scene = torch.ones(1, 2, 2), Places(8, 8, 1, 5)
    with pytest.raises(UsageError, match=r"x: where this layer's tokens have their places.*not known"):
        mask_at(masks, 0.0, "x", torch.zeros(1, 69, 4), True, scene)
    with pytest.raises(UsageError, match="not known"):
        mask_at(masks, 0.0, "x", torch.zeros(1, 64, 4), True, None)
    assert mask_at(masks, 0.5, "x", torch.zeros(1, 5, 4), True, scene) == 0.5
    assert scene_of(nn.Identity(), (torch.zeros(1, 4, 8),), {}) is None
    assert scene_of(nn.Identity(), (torch.zeros(1, 4, 3, 8, 6),), {}) == Places(8, 6, 3)


def test_frames_of_a_film_have_the_same_mask() -> None:
    found = mask_at(LEFT[None], 0.0, "blocks.0.attn1.to_q", torch.zeros(1, 48, 4), True, Places(8, 8, 3))
    assert found.shape == (1, 48, 1)
    assert torch.equal(found[0, :, 0], torch.tensor([1.0, 1, 0, 0] * 12))
