"""Random sequences of everything that a pipeline's adapters can be told, against the formula by hand in float64.

The default suite runs a few; ``make test-sequences`` runs SEQUENCES of them (10,000) on each model.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel, UNet2DConditionModel
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from torch import Tensor, nn

from si_hub import Act, tuner
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import ConversionRefused, UsageError
from si_hub.storage.tensors import Tensor as Stored
from si_hub.tuner.door import find_door

NAMES = ("a", "b", "c")
KINDS = ("lora", "lora too", "mixed", "routed", "bent")
WEIGHTS = (0.0, 0.5, 1.0, -0.7, 2.0)
STYLES: tuple[dict[str, float] | None, ...] = (None, {"ink": 1.0}, {"ink": 0.25, "neon": 0.5}, {"neon": -1.0})


class Bare(DiffusionPipeline):
    """A pipeline of nothing but its denoiser."""

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser)


def small_unet() -> tuple[nn.Module, tuple[Any, ...]]:
    model = UNet2DConditionModel(
        block_out_channels=(8,), layers_per_block=1, sample_size=4, cross_attention_dim=8, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=4,
        mid_block_type=None,
    )  # fmt: skip
    return model, (torch.randn(2, 4, 4, 4).double(), torch.tensor([10, 500]), torch.randn(2, 3, 8).double())


def small_transformer() -> tuple[nn.Module, tuple[Any, ...]]:
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    places = torch.zeros(6, 3).double(), torch.zeros(3, 3).double()
    given = torch.randn(2, 6, 4).double(), torch.randn(2, 3, 8).double(), torch.randn(2, 8).double()
    return model, (*given, torch.tensor([0.1, 0.9]).double(), *places)


MODELS: dict[str, tuple[Callable[[], tuple[nn.Module, tuple[Any, ...]]], tuple[str, ...]]] = {
    "unet": (small_unet, ("to_q", "attn2.to_k", "ff.net.2")),
    "transformer": (small_transformer, ("attn.to_q", "ff.net.2", "add_q_proj", "norm1.linear", "proj_mlp")),
}


@dataclass
class Loaded:
    """What calls have made of a loaded adapter; ``fused``: the changes of weights that are in the base."""

    kind: str
    weight: float
    active: bool = True
    styles: dict[str, float] | None = None
    fused: dict[str, Tensor] | None = None


@dataclass
class World:
    """A model, its inputs, adapters by kind, and what its twin, which nothing of ours sees, does with some of them."""

    base: nn.Module
    inputs: tuple[Any, ...]
    paths: tuple[str, ...]
    twin: nn.Module
    adapters: dict[str, Adapter] = field(default_factory=dict)
    lora: dict[str, Tensor] = field(default_factory=dict)

    def numbers(self, kind: str, path: str) -> dict[str, Tensor]:
        return {
            leaf: stored.torch()
            for leaf, stored in self.adapters[kind].components["denoiser"].layers[path].tensors.items()
        }

    def share(self, kind: str, path: str, x: Tensor, styles: dict[str, float] | None) -> Tensor:
        """s, ``[N, n]``: the styles', the router's on the mean over tokens, or one."""
        leaves, instances = self.numbers(kind, path), x.shape[0]
        if kind in ("mixed", "routed") and styles is not None:
            return torch.tensor([[styles.get(name, 0.0) for name in ("ink", "neon")]] * instances).double()
        if "router.bias" not in leaves:
            return torch.ones(instances, 1).double()
        pooled = x.flatten(1, -2).mean(1) if x.ndim > 2 else x
        logits = leaves["router.bias"].expand(instances, -1)
        if "router.weight" in leaves:
            logits = logits + pooled @ leaves["router.weight"].T
        return torch.softmax(logits, -1)

    def delta(self, kind: str, path: str, styles: dict[str, float] | None) -> Tensor:
        """alpha / rank · B · Σ_i s_i A_i, where s is the same for every input."""
        leaves = self.numbers(kind, path)
        n = leaves["down.weight"].shape[0] // 2
        s = self.share(kind, path, torch.zeros(1, leaves["down.weight"].shape[1]).double(), styles)[0]
        mixed = torch.einsum("n,nri->ri", s, leaves["down.weight"].reshape(n, 2, -1))
        return 3.0 / 2 * leaves["up.weight"] @ mixed

    def constant(self, kind: str, styles: dict[str, float] | None) -> bool:
        return kind != "bent" and (kind != "routed" or styles is not None)

    def run(self, rows: list[list[Loaded]], fused: list[dict[str, Tensor]], lora: float = 0.0) -> Tensor:
        """The output where each row of the batch has its own adapters, over fused weights and beside PEFT's LoRA."""
        before, hooks = {}, []
        for path in self.paths:
            module: Any = self.twin.get_submodule(path)
            before[path] = module.weight.data
            for changes in fused:
                module.weight.data = module.weight.data + changes[path]
            hooks.append(
                module.register_forward_hook(lambda _, args, h, path=path: self.add(rows, path, args[0], h, lora))
            )
        try:
            with torch.no_grad():
                found: Tensor = self.twin(*self.inputs).sample
        finally:
            for path, hook in zip(self.paths, hooks, strict=True):
                hook.remove()
                self.twin.get_submodule(path).weight.data = before[path]
        return found

    def add(self, rows: list[list[Loaded]], path: str, x: Tensor, h: Tensor, lora: float) -> Tensor:
        down, up = (self.lora[f"{path}.lora_{end}.weight"] for end in "AB")
        total = h + lora * (x @ down.T @ up.T)
        for number in range(h.shape[0]):
            for one in rows[number % len(rows)]:
                leaves, here, base = self.numbers(one.kind, path), x[number : number + 1], h[number : number + 1]
                n = leaves["down.weight"].shape[0] // 2
                s = self.share(one.kind, path, here, one.styles)[0]
                down = torch.einsum("n,nri->ri", s, leaves["down.weight"].reshape(n, 2, -1))
                change = one.weight * 3.0 / 2 * (here @ down.T @ leaves["up.weight"].T)
                if one.kind == "bent" and base.ndim > 2 and base.shape[1] > 1:
                    mean, var = base.mean(1, keepdim=True), base.var(1, correction=0, keepdim=True)
                    change = change * (base - mean) / (var + 1e-5).sqrt()
                total[number : number + 1] += change
        return total


def make_world(name: str) -> World:
    torch.manual_seed(0)
    build, ends = MODELS[name]
    model, inputs = build()
    model = model.eval().double().requires_grad_(False)
    paths = tuple(
        path for path, module in model.named_modules() if path.endswith(ends) and isinstance(module, nn.Linear)
    )
    world = World(model, inputs, paths, copy.deepcopy(model))
    for kind in KINDS:
        layers, n = {}, 2 if kind in ("mixed", "routed") else 1
        for path in paths:
            out, into = model.get_submodule(path).weight.shape  # type: ignore[misc]
            tensors = {
                "down.weight": torch.randn(n * 2, into).double() / into**0.5,
                "up.weight": torch.randn(out, 2).double() / 3,
            }
            if n > 1:
                tensors["router.bias"] = torch.randn(n).double()
            if kind == "routed":
                tensors["router.weight"] = torch.randn(n, into).double()
            transform: Any = "variance" if kind == "bent" else "add"
            layers[path] = Layer({leaf: Stored.from_torch(value) for leaf, value in tensors.items()}, 3.0, transform)
            world.lora[f"{path}.lora_A.weight"] = torch.randn(2, into).double() / into**0.5
            world.lora[f"{path}.lora_B.weight"] = torch.randn(out, 2).double() / 3
        branches = ("ink", "neon") if n > 1 else ()
        world.adapters[kind] = Adapter(BaseModel("test"), {"denoiser": Component(None, layers)}, branches)
    return world


class Calls(RuleBasedStateMachine):
    """Calls of a pipeline, and what they mean."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        model: Any = copy.deepcopy(self.world.base)
        self.pipe: Any = Bare(model)
        self.model = model
        self.before = {name: value.clone() for name, value in model.state_dict().items()}
        self.modules = list(model.named_modules())
        self.here: dict[str, Loaded] = {}
        self.enabled = True
        self.lora: float | None = None

    def load(self, name: str, kind: str, weight: float | None, **options: Any) -> None:
        self.pipe.load_styleinject_weights(
            self.world.adapters[kind], name, allow_components=["denoiser"], **options,
            **({} if weight is None else {"weight": weight}),
        )  # fmt: skip

    @rule(name=st.sampled_from(NAMES), kind=st.sampled_from(KINDS), weight=st.sampled_from(WEIGHTS))
    def loads(self, name: str, kind: str, weight: float) -> None:
        if name in self.here:
            with pytest.raises(UsageError, match="an adapter of this name is loaded"):
                self.load(name, kind, weight)
            return
        self.load(name, kind, weight)
        for other in self.here.values():
            other.active = False
        self.here[name] = Loaded(kind, weight)
        self.enabled = True

    @precondition(lambda self: self.here)
    @rule(data=st.data(), kind=st.sampled_from(KINDS))
    def swaps(self, data: Any, kind: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        held = self.here[name]
        plain = ("lora", "lora too")
        fits = held.fused is None and (held.kind == kind or {held.kind, kind} <= set(plain))
        if not fits:
            with pytest.raises(UsageError):
                self.load(name, kind, None, hotswap=True)
            return
        self.load(name, kind, None, hotswap=True)
        held.kind = kind

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def sets(self, data: Any) -> None:
        names = data.draw(st.lists(st.sampled_from(sorted(self.here)), unique=True))
        weights = [data.draw(st.sampled_from(WEIGHTS)) for _ in names]
        self.pipe.set_styleinject_adapters(names, weights)
        for name, held in self.here.items():
            held.active = name in names
            held.weight = weights[names.index(name)] if name in names else held.weight

    @precondition(lambda self: self.here)
    @rule(data=st.data(), scale=st.sampled_from((0.5, 1.0)))
    def fuses(self, data: Any, scale: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        held = self.here[name]
        if held.fused is not None or not self.world.constant(held.kind, held.styles):
            with pytest.raises((UsageError, ConversionRefused)):
                self.pipe.fuse_styleinject(scale=scale, adapter_names=name)
            return
        self.pipe.fuse_styleinject(scale=scale, adapter_names=name)
        held.fused = {
            path: scale * held.weight * self.world.delta(held.kind, path, held.styles) for path in self.world.paths
        }

    @rule()
    def unfuses(self) -> None:
        self.pipe.unfuse_styleinject()
        for held in self.here.values():
            held.fused = None

    @precondition(lambda self: self.here)
    @rule(enabled=st.booleans())
    def switches(self, enabled: bool) -> None:
        (self.pipe.enable_styleinject if enabled else self.pipe.disable_styleinject)()
        self.enabled = enabled

    @precondition(lambda self: self.here)
    @rule(data=st.data(), styles=st.sampled_from(STYLES))
    def mixes(self, data: Any, styles: dict[str, float] | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        held = self.here[name]
        styled = held.kind in ("mixed", "routed")
        if styled and held.fused is not None:
            with pytest.raises(UsageError, match="fused"):
                self.pipe.set_styles(styles, name)
        elif not styled and styles is not None:
            with pytest.raises(UsageError, match="no adapter has a branch"):
                self.pipe.set_styles(styles, name)
        else:
            self.pipe.set_styles(styles, name)
            held.styles = styles if styled else None

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def deletes(self, data: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is taken out of the base again")
            self.pipe.delete_styleinject_adapters(name)
        del self.here[name]
        self.enabled = self.enabled or not self.here

    @rule()
    def unloads(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is taken out of the base again")
            self.pipe.unload_styleinject_weights()
        self.here.clear()
        self.enabled = True
        assert find_door(self.model) is None
        if self.lora is not None:
            return
        now = self.model.state_dict()
        assert list(now) == list(self.before)
        assert all(torch.equal(now[name], value) for name, value in self.before.items())
        assert list(self.model.named_modules()) == self.modules

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def asks(self, data: Any) -> None:
        """A request of two rows; its answer, and that nothing is left of it."""
        free = sorted(name for name, held in self.here.items() if held.fused is None)
        rows: list[list[Act]] = []
        meant: list[list[Loaded]] = []
        for _ in range(2):
            names = data.draw(st.lists(st.sampled_from(free), unique=True)) if free else []
            rows.append([])
            meant.append([])
            for name in names:
                held, weight = self.here[name], data.draw(st.sampled_from(WEIGHTS))
                styled = held.kind in ("mixed", "routed")
                styles = data.draw(st.sampled_from(STYLES)) if styled else None
                rows[-1].append(Act(name, weight, styles))
                meant[-1].append(Loaded(held.kind, weight, styles=held.styles if styles is None else styles))
        with self.pipe.styleinject(rows=rows):
            self.compare(meant)

    @rule(weight=st.sampled_from(WEIGHTS))
    def weighs_a_lora_of_diffusers(self, weight: float) -> None:
        if self.lora is None:
            self.model.load_lora_adapter(dict(self.world.lora), prefix=None, adapter_name="theirs")
        self.model.set_adapters("theirs", weight)
        self.lora = weight

    @precondition(lambda self: self.lora is not None)
    @rule()
    def unloads_the_lora_of_diffusers(self) -> None:
        self.model.unload_lora()
        self.lora = None

    @rule()
    def draws(self) -> None:
        self.compare([[held for held in self.here.values() if held.active and self.enabled and held.fused is None]])

    def compare(self, rows: list[list[Loaded]]) -> None:
        with torch.no_grad():
            found = self.model(*self.world.inputs).sample
        fused = [held.fused for held in self.here.values() if held.fused is not None]
        expected = self.world.run(rows, fused, self.lora or 0.0)
        assert torch.allclose(found, expected, rtol=0, atol=1e-9)

    def teardown(self) -> None:
        self.draws()
        if self.lora is not None:
            self.unloads_the_lora_of_diffusers()
        self.unloads()
        self.draws()
        assert tuner.adapters(self.model) == {}


@pytest.mark.parametrize("name", MODELS)
def test_any_sequence_of_calls_draws_what_it_means_and_leaves_the_base_bit_for_bit(name: str) -> None:
    machine = type(f"Calls{name}", (Calls,), {"world": make_world(name)})
    count = int(os.environ.get("SEQUENCES", "0")) or 12
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count, stateful_step_count=12, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
