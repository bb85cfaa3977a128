"""torch.compile and adapters that come and go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn
from torch._dynamo.testing import CompileCounter

from si_hub.adapter import Adapter, BaseModel, Component
from si_hub.errors import BaseMismatch
from tests.pipelines.tiny import build

Make = Callable[..., Any]


class Tiny(DiffusionPipeline):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.register_modules(transformer=transformer)


class Block(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(into, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Block(6, 5), Block(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def pipe() -> Any:
    return Tiny(Net().eval())


def run(pipe: Any) -> torch.Tensor:
    with torch.no_grad():
        return pipe.transformer(torch.linspace(-1, 1, 12).reshape(2, 6))  # type: ignore[no-any-return]


def compile_whole(pipe: Any, backend: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, backend=backend)


def compile_in_place(pipe: Any, backend: Any) -> None:
    pipe.transformer.compile(backend=backend)


def compile_blocks(pipe: Any, backend: Any) -> None:
    for block in pipe.transformer.children():
        block.compile(backend=backend)


def compile_forward(pipe: Any, backend: Any) -> None:
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, backend=backend)


@pytest.mark.parametrize("compile_it", [compile_whole, compile_in_place, compile_blocks, compile_forward])
def test_an_adapter_loaded_after_compiling_acts_and_an_unloaded_one_does_not(
    compile_it: Make, pipe: Any, lora: Make, adapter: Make
) -> None:
    made = adapter(transformer=lora(pipe.transformer, ("linear",)))
    base = run(pipe)
    pipe.load_styleinject_weights(made, weight=0.5)
    half = run(pipe)
    pipe.set_styleinject_adapters("default_0")
    whole = run(pipe)
    pipe.unload_styleinject_weights()
    counter = CompileCounter()
    compile_it(pipe, counter)
    assert torch.allclose(run(pipe), base)
    assert counter.frame_count > 0
    pipe.load_styleinject_weights(made, "a")
    assert torch.allclose(run(pipe), whole)
    pipe.set_styleinject_adapters("a", 0.5)
    assert torch.allclose(run(pipe), half)
    pipe.disable_styleinject()
    assert torch.allclose(run(pipe), base)
    pipe.enable_styleinject()
    pipe.fuse_styleinject()
    assert torch.allclose(run(pipe), half, atol=1e-6)
    pipe.unfuse_styleinject()
    assert torch.allclose(run(pipe), half)
    pipe.delete_styleinject_adapters("a")
    assert torch.allclose(run(pipe), base)


def test_a_refused_load_leaves_compiled_code_alone(pipe: Any, lora: Make, adapter: Make) -> None:
    part = lora(pipe.transformer, ("linear",))
    counter = CompileCounter()
    compile_whole(pipe, counter)
    run(pipe)
    compiled = counter.frame_count
    with pytest.raises(BaseMismatch):
        pipe.load_styleinject_weights(
            adapter(transformer=Component(None, {f"x.{path}": v for path, v in part.layers.items()}))
        )
    run(pipe)
    assert counter.frame_count == compiled


@pytest.mark.parametrize("compile_it", [compile_whole, compile_in_place, compile_blocks, compile_forward])
def test_no_other_weight_compiles_again(compile_it: Make, pipe: Any, lora: Make, adapter: Make) -> None:
    pipe.load_styleinject_weights(adapter(transformer=lora(pipe.transformer, ("linear",))), "a")
    weights: list[Any] = [0.3, 0.0, -2.0, {"transformer": {"first": 0.5, "last": 0.0}}]
    expected = []
    for weight in weights:
        pipe.set_styleinject_adapters("a", weight)
        expected.append(run(pipe))
    counter = CompileCounter()
    compile_it(pipe, counter)
    run(pipe)
    compiled = counter.frame_count
    assert compiled > 0
    for weight, picture in zip(weights, expected, strict=True):
        pipe.set_styleinject_adapters("a", weight)
        assert torch.allclose(run(pipe), picture, atol=1e-6)
    assert counter.frame_count == compiled


def test_no_other_style_compiles_again(pipe: Any, lora: Make) -> None:
    part = lora(pipe.transformer, ("linear",), branches=2)
    pipe.load_styleinject_weights(Adapter(BaseModel("flux"), {"transformer": part}, ("ink", "neon")))
    mixes = [{"ink": 0.7, "neon": 0.3}, {"ink": 1.0}, {"neon": -0.5}]
    expected = []
    for styles in mixes:
        pipe.set_styles(styles)
        expected.append(run(pipe))
    counter = CompileCounter()
    compile_whole(pipe, counter)
    run(pipe)
    for styles, picture in zip(mixes, expected, strict=True):
        pipe.set_styles(styles)
        assert torch.allclose(run(pipe), picture, atol=1e-6)
    assert counter.frame_count == 1


def test_styles_that_were_set_in_inference_mode_are_set_outside_of_it_too(pipe: Any, lora: Make) -> None:
    part = lora(pipe.transformer, ("linear",), branches=2)
    pipe.load_styleinject_weights(Adapter(BaseModel("flux"), {"transformer": part}, ("ink", "neon")), weight=0.5)
    with torch.inference_mode():
        pipe.set_styles({"ink": 1.0})
    pipe.set_styles({"neon": 0.7})
    expected = run(pipe)
    compile_whole(pipe, CompileCounter())
    assert torch.allclose(run(pipe), expected, atol=1e-6)
    pipe.transformer.double()
    with torch.no_grad():
        found = pipe.transformer(torch.linspace(-1, 1, 12).reshape(2, 6).double())
    assert torch.allclose(found, expected.double(), atol=1e-6)


def test_hotswapping_does_not_compile_again(pipe: Any, lora: Make, adapter: Make) -> None:
    small, large = (
        adapter(transformer=lora(pipe.transformer, ("linear",), rank=rank, alpha=1.0, seed=rank)) for rank in (2, 3)
    )
    pipe.load_styleinject_weights(large)
    expected = run(pipe)
    pipe.unload_styleinject_weights()
    pipe.enable_styleinject_hotswap(target_rank=4)
    pipe.load_styleinject_weights(small, "a")
    counter = CompileCounter()
    compile_whole(pipe, counter)
    assert not torch.allclose(run(pipe), expected)
    compiled = counter.frame_count
    pipe.load_styleinject_weights(large, "a", hotswap=True)
    assert torch.allclose(run(pipe), expected, atol=1e-6)
    assert counter.frame_count == compiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_transformer_and_its_text_encoder_are_one_graph_each_and_stay_so_when_swapped(lora: Make) -> None:
    """As users compile: ``fullgraph``, the whole model. Neither swaps nor other styles and weights cost a graph."""
    tiny = build("FluxPipeline")
    pipe = tiny.pipe
    ends = {"transformer": ("to_q", "to_k", "proj_mlp", "proj_out"), "text_encoder": ("q_proj", "fc1")}
    small, large = (
        Adapter(
            BaseModel("flux"),
            {
                part: lora(getattr(pipe, part), ends[part], rank=rank, alpha=1.0, seed=rank, branches=2)
                for part in ends
            },
            ("ink", "neon"),
        )
        for rank in (2, 3)
    )  # fmt: skip
    pipe.load_styleinject_weights(large)
    pipe.set_styles({"ink": 0.7, "neon": 0.3})
    expected = tiny.draw()
    pipe.unload_styleinject_weights()
    pipe.enable_styleinject_hotswap(target_rank=4)
    pipe.load_styleinject_weights(small, "a")
    pipe.set_styles({"ink": 0.5, "neon": 0.5})
    counters = {part: CompileCounter() for part in ends}
    for part, counter in counters.items():
        setattr(pipe, part, torch.compile(getattr(pipe, part), backend=counter, fullgraph=True))
    tiny.draw()
    assert [counter.frame_count for counter in counters.values()] == [1, 1]
    pipe.load_styleinject_weights(large, "a", hotswap=True)
    tiny.draw()
    assert [counter.frame_count for counter in counters.values()] == [1, 1]
    pipe.set_styles({"ink": 0.7, "neon": 0.3})
    assert torch.allclose(tiny.draw(), expected, atol=1e-4)
    pipe.set_styleinject_adapters("a", {"transformer": 0.5, "text_encoder": 0.0})
    tiny.draw()
    assert [counter.frame_count for counter in counters.values()] == [1, 1]
