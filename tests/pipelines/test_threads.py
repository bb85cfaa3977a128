"""A server's threads: pipelines of their own on shared models.

The default suite sends a few requests from each of eight threads, the slow tests more; ``make test-requests`` sends
REQUESTS of them (200).
"""

from __future__ import annotations

import copy
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn

from si_hub import Act, tuner
from si_hub.adapter import Component, Layer
from si_hub.storage.tensors import Tensor
from si_hub.tuner.door import find_door

Make = Callable[..., Any]
REQUESTS = int(os.environ.get("REQUESTS", "0")) or 20


@pytest.fixture(autouse=True)
def _hurried() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def test_the_scale_of_one_thread_s_call_acts_in_that_call_alone(
    sd: Make, lora: Make, adapter: Make, noise: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet)), "a")
    plain, scaled = noise(pipe), noise(pipe, cross_attention_kwargs={"scale": 0.5})
    assert not torch.equal(plain, scaled)
    door = find_door(pipe.unet)
    assert door is not None
    door.scale_layer(0.5)
    with ThreadPoolExecutor(1) as other:
        assert torch.equal(other.submit(noise, pipe).result(), plain)
    assert torch.equal(noise(pipe), scaled)
    door.unscale_layer(0.5)
    assert torch.equal(noise(pipe), plain)
    assert door.control.by_thread == {}


@pytest.mark.parametrize("rounds", [3, pytest.param(REQUESTS, marks=pytest.mark.slow)])
def test_eight_threads_draw_what_each_draws_alone_and_the_base_is_untouched(
    rounds: int, sd: Make, lora: Make, adapter: Make, latents: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    before = state(pipe)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=lora(pipe.text_encoder, ("q_proj",))), "a")

    def draw(scale: float) -> torch.Tensor:
        parts = {**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}
        own = StableDiffusionPipeline(
            **{**parts, "tokenizer": copy.deepcopy(pipe.tokenizer)}, requires_safety_checker=False
        )
        own.set_progress_bar_config(disable=True)
        found: torch.Tensor = latents(own, cross_attention_kwargs={"scale": scale})
        return found

    scales = [0.0, 0.25, 0.5, 1.0] * 2
    expected = [draw(scale) for scale in scales]
    assert not torch.equal(expected[0], expected[3])
    with ThreadPoolExecutor(8) as threads:
        for _ in range(rounds):
            assert all(map(torch.equal, threads.map(draw, scales), expected))
    pipe.unload_styleinject_weights()
    assert same(state(pipe), before)


@pytest.mark.parametrize("rounds", [3, pytest.param(REQUESTS, marks=pytest.mark.slow)])
def test_eight_threads_ask_and_load_at_random_and_each_picture_is_its_single_threaded_own(
    rounds: int, sd: Make, lora: Make, adapter: Make, latents: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    before = state(pipe)
    texts = lora(pipe.text_encoder, ("q_proj",), seed=5)
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=1)), "a")
    pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, ("conv1", "to_k"), seed=2), text_encoder=texts), "b")
    styles = lora(pipe.unet, ("to_q", "to_out.0"), branches=3, seed=3)
    pipe.load_styleinject_weights(adapter(("ink", "neon", "oil"), unet=styles), "s")

    def ask(random: Random) -> Any:
        some = random.sample(["a", "b", "s"], random.randint(0, 3))
        weights = {name: random.choice([0.3, 0.7, -0.5, 1.5]) for name in some}
        mix = {name: random.random() for name in random.sample(["ink", "neon", "oil"], 2)}
        return [Act(name, weight, mix if name == "s" else None) for name, weight in weights.items()]

    def own_pipeline() -> Any:
        parts = {**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}
        own = StableDiffusionPipeline(
            **{**parts, "tokenizer": copy.deepcopy(pipe.tokenizer)}, requires_safety_checker=False
        )
        own.set_progress_bar_config(disable=True)
        return own

    def serve(seed: int, alone: bool) -> list[torch.Tensor]:
        random, own, found = Random(seed), own_pipeline(), []
        for number in range(rounds):
            acts, loads, two = ask(random), random.random() < 0.3, random.random() < 0.3
            other = ask(random)
            if loads:
                name = f"of_{seed}"
                component = random.choice(["unet", "text_encoder"])
                ends = ("to_v", "conv2") if component == "unet" else ("k_proj", "fc1")
                part = lora(getattr(pipe, component), ends, seed=1000 * seed + number)
                own.load_styleinject_weights(adapter(**{component: part}), name)
                acts = [*acts, Act(name, 0.8)]
            if two:
                found.append(latents(own.styleinject(rows=[acts, other]), ["ink cat", "sea"]))
            else:
                found.append(latents(own.styleinject(acts)))
            if loads:
                own.delete_styleinject_adapters(name)
            sets, weight = random.choice(["a", "b", "s"]), random.random()
            if not alone and weight < 0.2:
                own.set_styleinject_adapters(sets, weight)  # of whoever asks nothing
        return found

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda seed: serve(seed, alone=False), range(8)))
    for seed, pictures in enumerate(together):
        assert all(map(torch.equal, pictures, serve(seed, alone=True))), seed
    pipe.unload_styleinject_weights()
    assert same(state(pipe), before)


class Shift(nn.Module):
    """Adds a bare parameter, and may be held in the middle of that."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.pauses: dict[int, float] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pauses.get(threading.get_ident(), 0.0))
        return x + self.table


def test_a_parameter_s_delta_is_that_of_the_thread_that_calls() -> None:
    model: Any = nn.Sequential(Shift())
    delta = Layer({"param_delta": Tensor.from_torch(torch.ones(4))})
    tuner.inject(model, Component(layers={"0.table": delta}), name="a")
    door = find_door(model)
    assert door is not None

    def call(scale: float) -> torch.Tensor:
        model[0].pauses[threading.get_ident()] = 0.002
        door.scale_layer(scale)
        try:
            found: torch.Tensor = model(torch.zeros(4))
            return found
        finally:
            door.unscale_layer(scale)

    scales = [0.0, 0.25, 0.5, 2.0] * 10
    with ThreadPoolExecutor(4) as threads:
        assert [float(found[0]) for found in threads.map(call, scales)] == scales
    twin = copy.deepcopy(model)
    assert float(twin(torch.zeros(4))[0]) == 1.0
    assert twin[0].table.sum() == 0


def test_loads_wait_for_one_another(
    sd: Make, lora: Make, adapter: Make, state: Make, same: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = sd()
    before = state(pipe)
    inject, inside = tuner.inject, []

    def slow(*args: Any, **kwargs: Any) -> Any:
        inside.append(threading.get_ident())
        time.sleep(0.01)
        assert set(inside) == {threading.get_ident()}
        found = inject(*args, **kwargs)
        inside.clear()
        return found

    monkeypatch.setattr(tuner, "inject", slow)
    made = [adapter(unet=lora(pipe.unet, seed=seed)) for seed in range(6)]
    with ThreadPoolExecutor(6) as threads:
        names = {report.adapter_name for report in threads.map(pipe.load_styleinject_weights, made)}
    assert names == {f"default_{number}" for number in range(6)}
    assert set(pipe.get_list_styleinject_adapters()["unet"]) == names
    pipe.unload_styleinject_weights()
    assert same(state(pipe), before)


def test_who_draws_is_not_disturbed_by_who_takes_an_adapter_away(sd: Make, lora: Make, adapter: Make) -> None:
    pipe = sd()
    made = adapter(unet=lora(pipe.unet))
    layer = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    x = torch.randn(1, 3, layer.in_features)
    pipe.load_styleinject_weights(made, "a")
    child = layer.styleinject_layer
    taken_away = child.active  # what a thread has seen before another one removes the adapter
    pipe.unload_styleinject_weights()
    child.active = taken_away
    assert child.hook(layer, (x,), {}, layer(x)) is None
