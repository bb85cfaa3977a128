"""Who changes adapters that requests use waits for them, or is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from si_hub.errors import UsageError
from si_hub.pipelines import running

Make = Callable[..., Any]


@pytest.fixture
def loaded(sd: Make, lora: Make, adapter: Make) -> Any:
    pipe = sd()
    for number, name in enumerate("ab"):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet, seed=number)), name)
    return pipe


CHANGES = {
    "delete": lambda pipe, new: pipe.delete_styleinject_adapters("a"),
    "unload": lambda pipe, new: pipe.unload_styleinject_weights(),
    "swap": lambda pipe, new: pipe.load_styleinject_weights(new, "a", hotswap=True),
    "move": lambda pipe, new: pipe.set_styleinject_device("a", "cpu"),
    "fuse": lambda pipe, new: pipe.fuse_styleinject(adapter_names="b"),
    "unfuse": lambda pipe, new: pipe.unfuse_styleinject(),
    "bake": lambda pipe, new: pipe.bake_styleinject(adapter_names="b"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_waits_until_the_request_has_ended(
    change: str, loaded: Any, lora: Make, adapter: Make, noise: Make
) -> None:
    new = adapter(unet=lora(loaded.unet, seed=5))
    request = loaded.styleinject("a")
    request.__enter__()
    expected = noise(loaded)
    with pytest.raises(UsageError, match=r"a request of this thread uses it.*End the with-block first"):
        CHANGES[change](loaded, new)
    began = threading.Event()

    def do() -> None:
        began.set()
        CHANGES[change](loaded, new)

    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(do)
        began.wait()
        for _ in range(3):
            assert torch.equal(noise(loaded), expected)
        assert not waiting.done()
        request.__exit__(None, None, None)
        waiting.result(30)
    assert running._RUNNING == []


def test_what_no_request_uses_changes_at_once_and_another_pipeline_s_requests_do_not_matter(
    loaded: Any, sd: Make, lora: Make, adapter: Make, noise: Make
) -> None:
    other = sd()
    other.load_styleinject_weights(adapter(unet=lora(other.unet)), "a")
    with loaded.styleinject("a"):
        expected = noise(loaded)
        loaded.delete_styleinject_adapters("b")
        other.fuse_styleinject()
        other.bake_styleinject()
        assert torch.equal(noise(loaded), expected)


def test_with_offload_hooks_loading_waits_for_every_request(loaded: Any, lora: Make, adapter: Make) -> None:
    new = adapter(unet=lora(loaded.unet, seed=5))
    with loaded.styleinject("a"):
        loaded.load_styleinject_weights(new, "c")
    loaded.unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    with loaded.styleinject("a"), pytest.raises(UsageError, match="a request of this thread"):
        loaded.load_styleinject_weights(new, "d")
    loaded.load_styleinject_weights(new, "d")
