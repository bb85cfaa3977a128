"""Requests of one thread: what they name acts in their calls alone, and each row of a batch is its own single run."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from torch import nn

import si_hub
from si_hub import Act
from si_hub.adapter import Component, Layer
from si_hub.errors import SiHubError, UsageError
from si_hub.storage.tensors import Tensor
from si_hub.tuner.door import find_door

Make = Callable[..., Any]
TEXT = ("q_proj", "fc1")
PROMPTS = ["ink cat", "oil dog", "red fox", "sea"]


@pytest.fixture
def loaded(sd: Make, lora: Make, adapter: Make) -> Any:
    """A pipeline with three adapters, none of which is active: of attention, of convolutions and texts, of styles."""
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    both = {"unet": lora(pipe.unet, ("conv1", "to_k"), seed=1), "text_encoder": lora(pipe.text_encoder, TEXT, seed=2)}
    pipe.load_styleinject_weights(adapter(**both), "b")
    styles = lora(pipe.unet, ("to_q", "conv2", "to_out.0"), branches=3, seed=3)
    pipe.load_styleinject_weights(adapter(("ink", "neon", "oil"), unet=styles), "s")
    pipe.set_styleinject_adapters([])
    return pipe


def test_inside_a_request_what_it_names_acts_and_after_it_the_pipeline_is_as_it_was(loaded: Any, latents: Make) -> None:
    base = latents(loaded)
    loaded.set_styleinject_adapters(["a", "b"], [0.7, {"unet": {"down": 0.3}, "text_encoder": 2.0}])
    both = latents(loaded)
    loaded.set_styleinject_adapters("a", 0.7)
    one = latents(loaded)
    loaded.set_styleinject_adapters([])
    with loaded.styleinject("a", weight=0.7):
        assert torch.equal(latents(loaded), one)
        with loaded.styleinject({"a": 0.7, "b": {"unet": {"down": 0.3}, "text_encoder": 2.0}}):
            assert torch.equal(latents(loaded), both)
        with loaded.styleinject([]):
            assert torch.equal(latents(loaded), base)
        assert torch.equal(latents(loaded), one)
    assert torch.equal(latents(loaded), base)
    assert loaded.get_active_styleinject_adapters() == []


def test_styles_of_a_request_are_those_that_it_names_or_else_those_that_were_set(loaded: Any, latents: Make) -> None:
    loaded.set_styleinject_adapters("s")
    routed = latents(loaded)
    loaded.set_styles({"neon": 0.8, "oil": -0.5})
    mixed = latents(loaded)
    loaded.set_styles(None)
    with loaded.styleinject(styles={"neon": 0.8, "oil": -0.5}):
        assert torch.equal(latents(loaded), mixed)
    with loaded.styleinject(Act("s", styles={"neon": 0.8, "oil": -0.5})):
        loaded.set_styles({"ink": 1.0})  # of the others
        assert torch.equal(latents(loaded), mixed)
    loaded.set_styles({"neon": 0.8, "oil": -0.5})
    with loaded.styleinject("s"):
        assert torch.equal(latents(loaded), mixed)
    loaded.set_styles(None)
    with loaded.styleinject("s"):
        assert torch.equal(latents(loaded), routed)


def test_a_request_is_called_in_place_of_the_pipeline(loaded: Any, latents: Make) -> None:
    loaded.set_styleinject_adapters("b", 0.5)
    expected = latents(loaded)
    loaded.set_styleinject_adapters([])
    assert torch.equal(latents(loaded.styleinject("b", weight=0.5)), expected)


#: What each of four pictures asks, and the same as requests of their own.
ROWS: list[Any] = [
    "a",
    {"a": 0.5, "b": -0.7},
    None,
    [Act("b", {"unet": {"up": 0.3}}), Act("s", 0.9, {"ink": 0.4, "oil": 0.6})],
]
STYLES: list[Any] = [Act("s", styles={"ink": 1.0}), "s", Act("s", 0.5, {"oil": 1.0}), Act("s", styles={"neon": 1.0})]


def draw(pipe: Any, prompts: list[str], seeds: list[int], **options: Any) -> torch.Tensor:
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    found = pipe(
        prompts, height=16, width=16, num_inference_steps=2, output_type="latent",
        latents=noise.to(getattr(pipe, "pipeline", pipe).unet.dtype), **options,
    )  # fmt: skip
    images: torch.Tensor = found.images
    return images


@pytest.mark.parametrize("rows", [ROWS, STYLES], ids=["adapters", "styles"])
@pytest.mark.parametrize("guidance", [1.0, 5.0], ids=["alone", "guided"])
def test_each_row_of_a_batch_is_its_own_single_run(loaded: Any, rows: list[Any], guidance: float) -> None:
    loaded.to(torch.float64)
    seeds = [1, 2, 3, 4]
    with loaded.styleinject(rows=rows):
        together = draw(loaded, PROMPTS, seeds, guidance_scale=guidance)
    for number, row in enumerate(rows):
        with loaded.styleinject(row) if row is not None else loaded.styleinject([]):
            alone = draw(loaded, [PROMPTS[number]], [seeds[number]], guidance_scale=guidance)
        assert torch.allclose(together[number : number + 1], alone, rtol=0, atol=1e-11), number
    base = draw(loaded, PROMPTS, seeds, guidance_scale=guidance)
    different = [not torch.allclose(left, right, atol=1e-3) for left, right in zip(together, base, strict=True)]
    assert different == [row is not None for row in rows]


def test_rows_on_single_precision_are_their_single_runs_to_its_rounding(loaded: Any, error: Make) -> None:
    with loaded.styleinject(rows=ROWS):
        together = draw(loaded, PROMPTS, [1, 2, 3, 4])
    for number, row in enumerate(ROWS):
        alone = draw(loaded.styleinject([] if row is None else row), [PROMPTS[number]], [number + 1])
        assert error(together[number : number + 1], alone) < 1e-5


def test_pictures_of_one_prompt_share_its_text_where_they_ask_the_same_of_it(loaded: Any) -> None:
    loaded.to(torch.float64)
    options = {"num_images_per_prompt": 2, "guidance_scale": 5.0}
    rows = [Act("s", styles={"ink": 1.0}), Act("s", styles={"neon": 1.0}), "a", None]
    request = loaded.styleinject(rows=rows)
    with request:
        together = draw(loaded, PROMPTS[:2], [1, 2, 3, 4], **options)
    for number, row in enumerate(rows):
        alone = draw(
            loaded.styleinject([] if row is None else row), [PROMPTS[number // 2]], [number + 1], guidance_scale=5.0
        )
        assert torch.allclose(together[number : number + 1], alone, rtol=0, atol=1e-11), number
    with pytest.raises(UsageError, match=r"one prompt ask different things of the text encoder.*Repeat the prompt"):
        draw(loaded.styleinject(rows=["a", "b", "a", "a"]), PROMPTS[:2], [1, 2, 3, 4], **options)
    assert torch.equal(draw(request, PROMPTS[:2], [1, 2, 3, 4], **options), together)


def test_rows_that_are_not_the_pictures_are_refused(loaded: Any) -> None:
    with pytest.raises(UsageError, match=r"rows: rows has one entry for every picture.*expected 4 entries, found 2"):
        draw(loaded.styleinject(rows=["a", "b"]), PROMPTS, [1, 2, 3, 4])
    with (
        loaded.styleinject(rows=["a", "b", None]),
        pytest.raises(UsageError, match=r"does not divide into the rows.*multiple of 3, found 4"),
    ):
        draw(loaded, PROMPTS, [1, 2, 3, 4])
    assert loaded.styleinject(rows=["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"adapters": "x"}, "x: no such adapter is loaded.*one of b, a, s"),
        ({"adapters": {"a": {"vae": 1.0}}}, "vae: adapter 'a' does not adapt it"),
        ({"adapters": {"a": float("nan")}}, "a weight is a finite number"),
        ({"adapters": "s", "styles": {"tar": 1.0}}, "tar: no adapter has a branch of this name.*ink, neon, oil"),
        ({"adapters": "a", "styles": {"ink": 1.0}}, "ink: no adapter has a branch"),
        ({"adapters": ["a", "b"], "weight": 0.5}, "weight: a weight belongs to one adapter's name"),
        ({"adapters": ["a", "a"]}, "a: an adapter is named twice in one row"),
        ({"adapters": ["a", 3]}, "neither an adapter's name nor an Act"),
        ({"adapters": 3}, "asks for no adapter"),
        ({"adapters": "a", "rows": ["a"]}, "adapters: rows say everything themselves"),
        ({"rows": "a"}, "rows is a list with one entry for every picture"),
        ({"rows": []}, "rows is a list with one entry for every picture"),
    ],
)
def test_what_is_not_there_is_an_error_and_nothing_begins(
    loaded: Any, arguments: dict[str, Any], words: str, latents: Make
) -> None:
    base = latents(loaded)
    with pytest.raises(UsageError, match=words), loaded.styleinject(**arguments):
        pass
    assert torch.equal(latents(loaded), base)
    loaded.unload_styleinject_weights()  # would wait for ever


def test_without_adapters_a_request_names_what_is_missing(sd: Make) -> None:
    with pytest.raises(UsageError, match="a: no such adapter is loaded"), sd().styleinject("a"):
        pass


def test_a_fused_adapter_and_a_compiled_model_take_no_requests(loaded: Any) -> None:
    loaded.fuse_styleinject(adapter_names="a")
    with pytest.raises(UsageError, match=r"a: the adapter is fused.*unfuse_styleinject"), loaded.styleinject("a"):
        pass
    with loaded.styleinject("b"):
        pass
    loaded.unet.compile(backend="eager")
    with pytest.raises(UsageError, match="unet: a compiled model cannot tell requests apart"), loaded.styleinject("b"):
        pass


def test_the_call_s_scale_multiplies_a_request_s_weights(loaded: Any, latents: Make) -> None:
    scaled = latents(loaded.styleinject("a", weight=0.8), cross_attention_kwargs={"scale": 0.5})
    assert torch.allclose(scaled, latents(loaded.styleinject("a", weight=0.4)), atol=1e-5)
    rows = ["a", {"a": 0.5}]
    scaled = draw(loaded.styleinject(rows=rows), PROMPTS[:2], [1, 2], cross_attention_kwargs={"scale": 0.5})
    half = draw(loaded.styleinject(rows=[{"a": 0.5}, {"a": 0.25}]), PROMPTS[:2], [1, 2])
    assert torch.allclose(scaled, half, atol=1e-5)


def test_other_threads_and_tasks_are_not_in_the_request(loaded: Any, latents: Make) -> None:
    base = latents(loaded)
    with loaded.styleinject("a"), ThreadPoolExecutor(1) as other:
        assert not torch.equal(latents(loaded), base)
        assert torch.equal(other.submit(latents, loaded).result(), base)

    async def one(name: str, turn: asyncio.Event, next_turn: asyncio.Event) -> torch.Tensor:
        with loaded.styleinject(name):
            next_turn.set()
            await turn.wait()
            found: torch.Tensor = latents(loaded)
            return found

    async def both() -> tuple[torch.Tensor, torch.Tensor]:
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(one("a", second, first), one("b", first, second))

    left, right = asyncio.run(both())
    assert torch.equal(left, latents(loaded.styleinject("a")))
    assert torch.equal(right, latents(loaded.styleinject("b")))


def test_what_others_load_and_set_meanwhile_is_no_part_of_a_request(
    loaded: Any, lora: Make, adapter: Make, latents: Make
) -> None:
    expected = latents(loaded.styleinject("a"))
    more = {"unet": lora(loaded.unet, seed=9), "text_encoder": lora(loaded.text_encoder, TEXT, seed=9)}
    with loaded.styleinject("a"), ThreadPoolExecutor(1) as other:
        other.submit(loaded.load_styleinject_weights, adapter(**more), "late").result()
        other.submit(loaded.set_styleinject_adapters, ["a", "late"], [0.1, 2.0]).result()
        other.submit(loaded.disable_styleinject).result()
        assert torch.equal(latents(loaded), expected)
    loaded.delete_styleinject_adapters(["b", "late"])
    with loaded.styleinject("a"), ThreadPoolExecutor(1) as other:  # into a text encoder that has none now
        other.submit(loaded.load_styleinject_weights, adapter(text_encoder=more["text_encoder"]), "late").result()
        assert torch.equal(latents(loaded), expected)


def test_leaves_of_every_kind_and_router_and_transforms_are_row_by_row_what_they_are_alone(
    sd: Make, adapter: Make, lora: Make
) -> None:
    pipe = sd()
    pipe.to(torch.float64)
    draw_numbers = torch.Generator().manual_seed(5)

    def numbers(*shape: int) -> Tensor:
        return Tensor.from_torch(0.3 * torch.randn(*shape, generator=draw_numbers, dtype=torch.float64))

    part = lora(pipe.unet, ("to_q", "conv1", "time_emb_proj"), branches=2, dtype=torch.float64)
    for number, (path, layer) in enumerate(part.layers.items()):
        module = pipe.unet.get_submodule(path)
        out, into = module.weight.shape[:2]
        del layer.tensors["router.bias"]
        layer.tensors |= {"router.weight": numbers(2, into), "router.bias": numbers(2), "gain": numbers(out)}
        layer.tensors |= {"weight_delta": numbers(*module.weight.shape), "gain_in": numbers(into)}
        layer.transform = ("add", "variance", "restyle", "adain")[number % 4]
    norms = {
        path: Layer({"weight_delta": numbers(*module.weight.shape), "bias_delta": numbers(*module.bias.shape)})
        for path, module in pipe.unet.named_modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
    }
    factors = Component(layers={
        path: Layer({
            "kron": numbers(2, 4), "up.weight": numbers(module.weight.shape[0] // 2, 3),
            "down.weight": numbers(3, module.weight.shape[1] // 4, *module.weight.shape[2:]),
        })
        for path, module in pipe.unet.named_modules() if path.endswith(("conv2", "to_v"))
    })  # fmt: skip
    pipe.load_styleinject_weights(adapter(("x", "y"), unet=part), "whole")
    pipe.load_styleinject_weights(adapter(unet=Component(layers=norms)), "norms")
    pipe.load_styleinject_weights(adapter(unet=factors), "factors")
    rows: list[Any] = [
        {"whole": 0.3, "factors": 0.8}, [Act("whole", -0.4, {"y": 1.0}), "norms"], {"norms": 0.5, "factors": 0.2},
        "whole",
    ]  # fmt: skip
    with pipe.styleinject(rows=rows):
        together = draw(pipe, PROMPTS, [1, 2, 3, 4], guidance_scale=3.0)
    for number, row in enumerate(rows):
        alone = draw(pipe.styleinject(row), [PROMPTS[number]], [number + 1], guidance_scale=3.0)
        assert torch.allclose(together[number : number + 1], alone, rtol=0, atol=1e-10), number


class Diffuser(DiffusionPipeline):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.register_modules(transformer=transformer)


def test_a_transformer_s_rows_are_its_single_runs_too(lora: Make, adapter: Make) -> None:
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4),
    ).eval().double()  # fmt: skip
    pipe: Any = Diffuser(model)
    numbers = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 6, 4, generator=numbers), "timestep": torch.tensor([0.5, 0.5]),
        "encoder_hidden_states": torch.randn(2, 5, 16, generator=numbers),
        "pooled_projections": torch.randn(2, 16, generator=numbers),
    }  # fmt: skip
    inputs = {name: value.double() for name, value in inputs.items()}
    places = {"img_ids": torch.zeros(6, 3).double(), "txt_ids": torch.zeros(5, 3).double()}
    part = lora(model, ("to_q", "proj_mlp", "norm1.linear", "x_embedder"))
    pipe.load_styleinject_weights(adapter(transformer=part), "a")
    bias = Component(layers={"proj_out": Layer({"bias_delta": Tensor.from_torch(torch.ones(4))})})
    pipe.load_styleinject_weights(adapter(transformer=bias), "bias")
    rows: list[Any] = [{"a": 0.5}, "bias"]
    with torch.no_grad():
        with pipe.styleinject(rows=rows):
            together = model(**inputs, **places).sample
        for number, row in enumerate(rows):
            own = {name: value[number : number + 1] for name, value in inputs.items()}
            with pipe.styleinject(row):
                alone = model(**own, **places).sample
            assert torch.allclose(together[number], alone[0], rtol=0, atol=1e-12)


class Framed(nn.Module):
    """Folds its frames into the batch, as video models do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.inner = nn.Linear(4, 4)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.inner(hidden_states.flatten(0, 1)) + self.table
        return found


@torch.no_grad()
def test_rows_that_differ_where_a_layer_does_not_see_them_are_refused_and_equal_ones_are_not(adapter: Make) -> None:
    model = Framed()
    pipe: Any = Diffuser(model)
    ones = {"inner": Layer({"bias_delta": Tensor.from_torch(torch.ones(4))})}
    table = {"table": Layer({"param_delta": Tensor.from_torch(torch.ones(4))})}
    pipe.load_styleinject_weights(adapter(transformer=Component(layers=ones)), "a")
    pipe.load_styleinject_weights(adapter(transformer=Component(layers=table)), "t")
    x = torch.zeros(2, 3, 4)
    with pipe.styleinject(rows=["a", {"a": 1.0, "t": 0.5}]), pytest.raises(UsageError, match="table: a bare parameter"):
        model(x)
    with pipe.styleinject(rows=["a", None]), pytest.raises(UsageError, match=r"inner: rows ask different.*one by one"):
        model(x)
    with pipe.styleinject(rows=["a", None]), pytest.raises(UsageError, match="the whole model"):
        model.inner(x)
    with pipe.styleinject(rows=["a", Act("a")]):
        expected = model(x)
    assert torch.equal(expected, nn.functional.linear(x.flatten(0, 1), model.inner.weight, model.inner.bias) + 1)
    assert torch.equal(model(x), expected - 1 + 1)
    with pipe.styleinject(rows=[{"a": 1.0, "t": 2.0}, {"t": 2.0, "a": 1.0}]):
        assert torch.equal(model(x), expected + 2)


def test_hooks_of_requests_go_with_the_last_adapter_and_copies_of_a_model_have_their_own(
    loaded: Any, noise: Make
) -> None:
    base = noise(loaded.styleinject([]).pipeline)
    with loaded.styleinject("a"):
        shown = noise(loaded)
    twin = copy.deepcopy(loaded.unet)
    assert len(loaded.unet._forward_pre_hooks) == len(twin._forward_pre_hooks) == 1
    other = copy.copy(loaded)
    other.unet = twin
    with loaded.styleinject("a"):
        assert torch.equal(noise(other), base)
        assert torch.equal(noise(loaded), shown)
    with other.styleinject("a"):
        assert torch.equal(noise(other), shown)
    for pipe in (loaded, other):
        pipe.unload_styleinject_weights()
        assert not pipe.unet._forward_pre_hooks
        assert not pipe.unet._forward_hooks
        assert find_door(pipe.unet) is None


def test_a_request_ends_where_it_began(loaded: Any) -> None:
    request = loaded.styleinject("a")
    request.__enter__()
    with ThreadPoolExecutor(1) as other, pytest.raises(UsageError, match="another thread or task"):
        other.submit(request.__exit__, None, None, None).result()
    with loaded.styleinject("b"), pytest.raises(UsageError, match="another one inside of it"):
        request.__exit__(None, None, None)
    request.__exit__(None, None, None)
    loaded.unload_styleinject_weights()


def test_a_failed_call_leaves_nothing_of_its_request(loaded: Any, latents: Make) -> None:
    base = latents(loaded)
    with pytest.raises(SiHubError):
        draw(loaded.styleinject(rows=["a", "b", None]), PROMPTS, [1, 2, 3, 4])
    with pytest.raises(RuntimeError), loaded.styleinject("a"):
        draw(loaded, PROMPTS, [1, 2])
    assert torch.equal(latents(loaded), base)
    assert si_hub.tuner.requests.asked_now() is None
