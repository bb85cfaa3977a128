"""Adapters that requests load by naming them: the pictures of a plain load, within the bytes that are allowed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

import si_hub
from si_hub import Act, tuner
from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel, Component
from si_hub.errors import BaseMismatch, MissingFile, NotFinite, UsageError
from si_hub.pipelines.cache import cache_of
from si_hub.storage.tensors import Tensor

Make = Callable[..., Any]
NAMES = ("a", "b", "c", "d")
#: Rank 2 on 6 → 5 and 5 → 4, float32.
BYTES = 4 * 2 * (6 + 5 + 5 + 4)
WAIT = 30


class Tiny(DiffusionPipeline):
    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.register_modules(transformer=transformer)


@pytest.fixture
def pipe() -> Any:
    return Tiny(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).eval())


def run(pipe: Any) -> torch.Tensor:
    with torch.no_grad():
        return pipe.transformer(torch.linspace(-1, 1, 12).reshape(2, 6))  # type: ignore[no-any-return]


@pytest.fixture
def files(pipe: Any, lora: Make, tmp_path: Path) -> dict[str, Path]:
    found = {}
    for seed, name in enumerate(NAMES):
        made = Adapter(BaseModel("flux"), {"transformer": lora(pipe.transformer, ("0", "2"), seed=seed)})
        found[name] = file_format.write(made, tmp_path / f"{name}.safetensors").path
    return found


@pytest.fixture
def alone(pipe: Any, files: dict[str, Path]) -> dict[str, torch.Tensor]:
    """What each draws after a plain load, with weight 0.7; and the base."""
    found = {"": run(pipe)}
    for name, file in files.items():
        pipe.load_styleinject_weights(file, weight=0.7)
        found[name] = run(pipe)
        pipe.unload_styleinject_weights()
    return found


def held_bytes(pipe: Any) -> int:
    """Of every tensor in the model that is none of the base's."""
    return sum(value.nbytes for name, value in pipe.transformer.named_parameters() if "styleinject" in name)


def test_a_request_loads_what_it_names_and_unloads_what_was_not_asked_for_the_longest(
    pipe: Any, files: dict[str, Path], alone: dict[str, torch.Tensor]
) -> None:
    cache = pipe.enable_styleinject_cache(2 * BYTES + 10, files)
    assert (cache.names, cache.loaded, cache.nbytes) == ([*NAMES], [], 0)
    for name, left in [("a", ["a"]), ("b", ["a", "b"]), ("a", ["b", "a"]), ("c", ["a", "c"]), ("b", ["c", "b"])]:
        with pipe.styleinject(name, weight=0.7):
            assert torch.equal(run(pipe), alone[name])
            assert held_bytes(pipe) == cache.nbytes == BYTES * len(left)
        assert cache.loaded == left
        assert torch.equal(run(pipe), alone[""])
    with pipe.styleinject(rows=[Act("c", 0.7), {"d": 0.7}]):
        assert torch.allclose(run(pipe), torch.stack([alone["c"][0], alone["d"][1]]), atol=1e-6)
    assert cache.loaded == ["c", "d"]
    cache.remove("d")
    cache.close()
    assert cache_of(pipe) is None
    assert pipe.get_list_styleinject_adapters() == {"transformer": ["c"]}
    with pytest.raises(UsageError, match=r"b: no such adapter is loaded"), pipe.styleinject("b"):
        pass


def test_what_does_not_fit_the_budget_at_all_is_told_and_nothing_is_unloaded_for_it(
    pipe: Any, files: dict[str, Path], alone: dict[str, torch.Tensor]
) -> None:
    cache = pipe.enable_styleinject_cache(BYTES, files)
    with pipe.styleinject("a", weight=0.7):
        assert torch.equal(run(pipe), alone["a"])
    both = pipe.styleinject({"b": 0.5, "c": 0.5})
    with pytest.raises(UsageError, match=rf"larger than the cache of adapters \(expected at most {BYTES} bytes"), both:
        pass
    assert cache.loaded == ["a"]
    cache.close()
    small = pipe.enable_styleinject_cache(BYTES - 1, {"z": files["b"]})
    with pytest.raises(UsageError, match=rf"z: larger than the cache.*found {BYTES} bytes"), pipe.styleinject("z"):
        pass
    assert small.prefetch("z").exception(WAIT) is not None
    assert pipe.get_list_styleinject_adapters() == {"transformer": ["a"]}
    wrongs: list[Any] = [0, True, 2.5, "1GB"]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="max_bytes: a cache has a number of bytes"):
            si_hub.AdapterCache(pipe, wrong)
    with pytest.raises(UsageError, match="has a cache of adapters already"):
        pipe.enable_styleinject_cache(BYTES)
    for name in ("a", "z", "", "x.y"):
        with pytest.raises(UsageError):
            small.add(name, files["a"])
    for call in (small.prefetch, small.remove):
        with pytest.raises(UsageError, match=r"q: no such adapter in the cache \(expected z\)"):
            call("q")


def test_what_a_request_uses_is_not_unloaded_and_another_request_waits_for_its_end(
    pipe: Any, files: dict[str, Path], alone: dict[str, torch.Tensor]
) -> None:
    cache = pipe.enable_styleinject_cache(BYTES, files)
    begun, ended = threading.Event(), threading.Event()

    def other() -> torch.Tensor:
        begun.set()
        with pipe.styleinject("b", weight=0.7):
            assert ended.is_set()
            return run(pipe)

    with ThreadPoolExecutor(1) as threads:
        with pipe.styleinject("a", weight=0.7):
            drawing = threads.submit(other)
            assert begun.wait(WAIT)
            cache.prefetch("c").result(WAIT)  # is read, and finds no room
            assert torch.equal(run(pipe), alone["a"])
            assert cache.loaded == ["a"]
            with pytest.raises(UsageError, match="a: requests leave no room for it, and this thread is in one"):
                pipe.styleinject("d").__enter__()
            ended.set()
        assert torch.equal(drawing.result(WAIT), alone["b"])
    with pipe.styleinject("c", weight=0.7):
        assert torch.equal(run(pipe), alone["c"])


def test_what_is_active_for_the_whole_pipeline_stays(
    pipe: Any, files: dict[str, Path], alone: dict[str, torch.Tensor]
) -> None:
    cache = pipe.enable_styleinject_cache(BYTES, files)
    with pipe.styleinject("a"):
        pass
    pipe.set_styleinject_adapters("a", 0.7)
    with pytest.raises(UsageError, match="a: adapters that are active or fused leave no room"), pipe.styleinject("b"):
        pass
    assert torch.equal(run(pipe), alone["a"])
    pipe.set_styleinject_adapters([])
    with pipe.styleinject("b", weight=0.7):
        assert torch.equal(run(pipe), alone["b"])
    pipe.unload_styleinject_weights()
    assert (cache.loaded, cache.nbytes) == ([], 0)
    with pipe.styleinject("b", weight=0.7):
        assert torch.equal(run(pipe), alone["b"])
    assert cache.loaded == ["b"]


def test_what_is_read_in_the_background_is_there_and_its_error_is_the_request_s(
    pipe: Any, files: dict[str, Path], alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    cache = pipe.enable_styleinject_cache(3 * BYTES, files)
    cache.add("late", tmp_path / "late.safetensors")
    cache.prefetch("a").result(WAIT)
    assert cache.loaded == ["a"]
    files["a"].unlink()
    with pipe.styleinject("a", weight=0.7):
        assert torch.equal(run(pipe), alone["a"])
    failed = cache.prefetch("late")
    assert isinstance(failed.exception(WAIT), MissingFile)
    late = files["b"].rename(tmp_path / "late.safetensors")
    with pytest.raises(MissingFile), pipe.styleinject("late"):
        pass
    with pipe.styleinject("late", weight=0.7):
        assert torch.equal(run(pipe), alone["b"])
    assert cache.prefetch("late").result(WAIT) is None
    assert cache.loaded == ["a", "late"]
    late.write_bytes(b"no adapter")
    with pipe.styleinject("late", weight=0.7):
        assert torch.equal(run(pipe), alone["b"])


def test_what_cannot_be_loaded_is_told_and_leaves_the_models_as_they_were(
    pipe: Any, lora: Make, adapter: Make, state: Make, same: Make
) -> None:
    before = state(pipe)
    part = lora(pipe.transformer, ("0", "2"))
    elsewhere = {path.replace("0", "7"): layer for path, layer in part.layers.items()}
    broken = copy.deepcopy(part)
    broken.layers["0"].tensors["up.weight"] = Tensor.from_torch(torch.full((5, 2), torch.nan))
    wrong = {
        "elsewhere": (adapter(transformer=Component(None, elsewhere)), BaseMismatch),
        "broken": (adapter(transformer=broken), NotFinite),
        "words": (
            adapter(transformer=Component(None, {}, {"<cat>": Tensor.from_torch(torch.zeros(1, 4))})),
            UsageError,
        ),
    }
    cache = pipe.enable_styleinject_cache(1 << 20, {name: made for name, (made, _) in wrong.items()})
    for name, (_, kind) in wrong.items():
        assert isinstance(cache.prefetch(name).exception(WAIT), kind)
        for _ in range(2):  # the background's error, then the request's own
            with pytest.raises(kind), pipe.styleinject(name):
                pass
    assert same(state(pipe), before)
    assert cache.loaded == []


def test_pipelines_share_a_cache_with_their_models_and_a_copy_of_a_model_has_none(
    pipe: Any, files: dict[str, Path], alone: dict[str, torch.Tensor]
) -> None:
    cache = pipe.enable_styleinject_cache(BYTES, files)
    other = Tiny(pipe.transformer)
    with other.styleinject("a", weight=0.7):
        assert torch.equal(run(other), alone["a"])
    assert cache.loaded == ["a"]
    assert cache_of(Tiny(copy.deepcopy(pipe.transformer))) is None


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_threads_that_ask_for_more_than_fits_draw_what_each_draws_alone(
    rounds: int, pipe: Any, files: dict[str, Path], alone: dict[str, torch.Tensor]
) -> None:
    cache = pipe.enable_styleinject_cache(2 * BYTES, files)

    def draw(seed: int) -> bool:
        chance = Random(seed)
        right = True
        for _ in range(rounds):
            name = chance.choice(NAMES)
            if chance.random() < 0.3:
                cache.prefetch(chance.choice(NAMES))
            with pipe.styleinject(name, weight=0.7):
                right &= torch.equal(run(pipe), alone[name]) and held_bytes(pipe) <= 2 * BYTES
        return right

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(draw, range(6)))
    cache.close()
    pipe.unload_styleinject_weights()
    assert torch.equal(run(pipe), alone[""])
    assert tuner.adapters(pipe.transformer) == {}
