"""An adapter that learns in a running pipeline: in and out without a trace, and what it was made of."""

from __future__ import annotations

import pytest
import torch

from si_hub.adapter import Component, Layer
from si_hub.distill.methods.svd import compute, plan_of
from si_hub.distill.pair.matching import Pair, match_all
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.student import Student
from tests.distill.running.sampled import states
from tests.miniature import BASE, NEON


@pytest.fixture(scope="session")
def pair() -> Pair:
    return match_all(BASE, [NEON])[0]


@pytest.fixture(scope="module")
def runner(pair: Pair) -> Runner:
    return Runner(pair)


def components(pair: Pair, rank: int = 2) -> dict[str, Component]:
    """A plain low-rank adapter of the pair."""
    found: dict[str, Component] = {}
    for change in pair.changes:
        leaves, _ = compute(plan_of(change, rank), "F32", 0, torch.device("cpu"))
        if leaves:
            found.setdefault(change.component, Component()).layers[change.module] = Layer(leaves)
    return found


def test_a_student_goes_in_learns_in_float32_and_comes_out_without_a_trace(runner: Runner, pair: Pair) -> None:
    some = states(runner)
    with torch.no_grad():
        base = runner(some)
        runner.mix(1.0)
        tuned = runner(some)
        student = Student(runner, components(pair))
        acting = runner(some)
        with student.away(runner):
            assert torch.equal(runner(some), tuned)
        assert torch.equal(runner(some), acting)
    assert not torch.equal(acting, base)
    assert student.leaves
    assert all(leaf.requires_grad and leaf.dtype == torch.float32 for leaf in student.leaves.values())
    (runner(some) - tuned).square().mean().backward()  # type: ignore[no-untyped-call]
    assert all(leaf.grad is not None for leaf in student.leaves.values())
    assert not any(p.grad is not None for p in pair_parameters(runner, student))
    student.leave()
    with torch.no_grad():
        assert torch.equal(runner(some), base)


def pair_parameters(runner: Runner, student: Student) -> list[torch.nn.Parameter]:
    own = {id(leaf) for leaf in student.leaves.values()}
    models = (runner.pipeline.unet, runner.pipeline.text_encoder)
    return [p for model in models for p in model.parameters() if id(p) not in own]


def test_a_students_layers_are_those_it_was_made_of(runner: Runner, pair: Pair) -> None:
    given = components(pair)
    student = Student(runner, given)
    found, halves = student.components("F32"), student.components("F16")
    student.leave()
    for name, component in given.items():
        assert found[name].layers.keys() == component.layers.keys()
        for module, layer in component.layers.items():
            for leaf, tensor in layer.tensors.items():
                values = found[name].layers[module].tensors[leaf].torch()
                assert torch.equal(values.flatten(), tensor.torch().flatten()), (module, leaf)
                assert halves[name].layers[module].tensors[leaf].dtype == "F16"


def test_a_student_has_all_its_digits_beside_a_base_of_half_precision(pair: Pair) -> None:
    made = components(pair)
    student = Student(Runner(pair, dtype=torch.bfloat16), made)
    found = student.components("F32")
    assert {name: sorted(part.layers) for name, part in found.items()} == {
        name: sorted(part.layers) for name, part in made.items()
    }
    for name, part in made.items():
        for path, layer in part.layers.items():
            for leaf, tensor in layer.tensors.items():
                assert torch.equal(found[name].layers[path].tensors[leaf].torch(), tensor.torch()), (path, leaf)
