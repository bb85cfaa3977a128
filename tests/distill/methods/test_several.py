"""Several checkpoints of the miniature in one adapter: its branches, its router, its report, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

from si_hub import format as file_format
from si_hub.cli import main
from si_hub.distill import Distilled, distill, match, open_model
from si_hub.distill.budget.spend import refit, scores, spend
from si_hub.distill.methods.branches import standing_of
from si_hub.distill.methods.several import Teachers
from si_hub.distill.request import Request
from si_hub.distill.running.student import Student
from si_hub.distill.survey.curvature import Curvature
from si_hub.distill.survey.stages import values_of
from si_hub.errors import UsageError
from si_hub.pipelines import loading
from si_hub.pipelines import styles as branch_weights
from si_hub.work.folder import Work
from tests.miniature import BASE, INK, NEON, tune_attentions, write_prompts

TINY = {"trajectories": 4, "states": 2, "sampling_steps": 6, "held_out": 4, "probes": 1, "pieces": 24}
TRAINED = {"steps": 2, "samples": 8, "part": 4, "walks": 1, "every": 2}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What every run is told: few prompts, a cache of its own, little work."""
    folder = tmp_path_factory.mktemp("teachers")
    return {"prompts": write_prompts(folder), "cache": str(folder / "cache"), **TINY}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Neon and ink, in their attentions alone."""
    folder = tmp_path_factory.mktemp("tuned")
    return [tune_attentions(folder, style) for style in ("neon", "ink")]


@pytest.fixture(scope="module")
def both(told: dict[str, Any], models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    """Both in one adapter, by the closed form."""
    output = tmp_path_factory.mktemp("both") / "both.safetensors"
    return distill(BASE, *models, output=output, size=100_000, **told)


def test_every_tuned_model_has_a_branch_that_comes_near_it(both: Distilled) -> None:
    assert_near_both(both, 100_000, 0.3)


@pytest.mark.slow
def test_models_that_are_tuned_everywhere_have_branches_and_a_fidelity_too(
    told: dict[str, Any], tmp_path: Path
) -> None:
    assert_near_both(distill(BASE, NEON, INK, output=tmp_path / "both", size=200_000, **told), 200_000, 0.5)
    close = distill(BASE, NEON, INK, output=tmp_path / "close", fidelity=0.6, **told)
    assert 0.3 < max(close.fidelity["branches"].values()) <= 0.4


def assert_near_both(both: Distilled, size: int, most: float) -> None:
    adapter = file_format.read(both.path)
    assert adapter.branches == ("neon", "ink")
    for component in adapter.components.values():
        for layer in component.layers.values():
            assert layer.branches == 2
            assert layer.tensors["router.bias"].torch().tolist() == [0.0, 0.0]
            assert layer.tensors.keys() == {"down.weight", "up.weight", "router.bias"}
    errors = both.fidelity["branches"]
    assert errors.keys() == {"neon", "ink"}
    assert max(errors.values()) < most
    assert both.error == pytest.approx(sum(errors.values()) / 2, rel=1e-3)
    assert 0.8 * size < both.path.stat().st_size <= size


def opened(
    told: dict[str, Any], models: Sequence[Path], folder: Path, branches: tuple[str, ...] = ("neon", "ink"), **more: Any
) -> Teachers:
    """Two tuned models before anything is chosen, with the surveys that other runs told the same have made."""
    base = open_model(BASE)
    pairs = [match(base, open_model(tuned, base=base)) for tuned in models]
    others = {name: value for name, value in told.items() if name != "prompts"} | {"branches": ",".join(branches)}
    request = Request.of("calibrated", models, prompts=told["prompts"], options=others, **more)
    return Teachers(pairs, request, Work(folder / "work"))


@pytest.fixture(scope="module")
def teachers(told: dict[str, Any], models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Teachers:
    return opened(told, models, tmp_path_factory.mktemp("teachers"))


def test_each_branch_holds_its_ranks_as_refitted_to_its_own_tuned_model(teachers: Teachers) -> None:
    commons = teachers.commons()
    findings = teachers.findings(commons)
    chosen = teachers.choose(commons, findings, 60_000)
    columns = [(key, rank) for key, found in commons.items() for rank in range(len(found.gains))]
    carried = {
        (name, module): layer.rank for name, component in chosen.items() for module, layer in component.layers.items()
    }
    value = sum(scores(one.effects) / one.target.double().square().mean() for one in findings)
    assert isinstance(value, torch.Tensor)
    taken = spend(teachers.groups(), value, 60_000)
    factors = [refit(one.effects, one.target, taken, one.samples).tolist() for one in findings]
    assert 10 < len(carried) < len(commons)
    for key, rank in carried.items():
        places = [place for place, column in enumerate(taken) if columns[column][0] == key]
        rows = [columns[taken[place]][1] for place in places]
        assert len(rows) == rank
        leaves = {name: tensor.torch() for name, tensor in chosen[key[0]].layers[key[1]].tensors.items()}
        downs = leaves["down.weight"].flatten(1).reshape(2, rank, -1)
        for branch in range(2):
            factor = torch.tensor([factors[branch][place] for place in places])
            expected = commons[key].up[:, rows] * factor @ commons[key].down[branch, rows]
            found = leaves["up.weight"] @ downs[branch]
            assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_tuned_models_count_alike_however_far_they_are_from_the_base(teachers: Teachers) -> None:
    """What a common up matrix leaves is weighed in units of the base's own error against each of them."""
    key = ("unet", "conv_in")
    found = teachers.commons()[key]
    for k, teacher in enumerate(teachers.teachers):
        both = Curvature([teacher.changes[key]], teachers.limit, torch.device("cpu"))
        both.add_up([values_of(one.curvature) for one in teachers.teachers])
        own = Curvature([teacher.changes[key]], teachers.limit, torch.device("cpu"))
        own.add_up([values_of(teacher.curvature)])
        delta = teacher.changes[key].delta()
        assert delta is not None
        felt = both.moments[key][1].root().times(own.moments[key][0].root().times(delta.flatten(1)).T).T
        unit = float(teacher.survey.measure().base.mean())
        assert float(found.whole[k]) == pytest.approx(float(felt.square().sum()) / unit, rel=1e-3)


def test_a_fidelity_holds_for_every_branch_at_the_smallest_size(
    told: dict[str, Any], models: list[Path], tmp_path: Path
) -> None:
    found = distill(BASE, *models, output=tmp_path / "close.safetensors", fidelity=0.6, **told)
    errors = found.fidelity["branches"].values()
    assert 0.3 < max(errors) <= 0.4
    with pytest.raises(UsageError, match="no adapter of this method comes that close"):
        distill(BASE, *models, output=tmp_path / "closest.safetensors", fidelity=0.99999, **told)


def test_what_only_one_per_layer_can_be_is_named_as_left_out(both: Distilled) -> None:
    assert both.left_out["unet.conv_in.bias"] == "one per layer in the file, not one per branch"
    assert both.left_out["unet.conv_norm_out"] == "one per layer in the file, not one per branch"
    assert sum(both.fidelity["left_out"].values()) == len(both.left_out)


def test_the_report_stands_in_the_document_and_in_the_notes(both: Distilled) -> None:
    sharing = both.fidelity["sharing"]
    assert sharing["branches"] == ["neon", "ink"]
    assert sharing["overlap_by_chance"] < sharing["mean_overlap"] < 1
    at = {row["error"]: row for row in sharing["bytes_at_error"]}
    assert at[0.3]["separate"] < at[0.1]["separate"]
    assert any("two tuned models share" in note for note in both.notes)
    assert file_format.read(both.path).about["fidelity"]["sharing"] == sharing


def test_a_branch_alone_is_its_own_model_and_mixtures_lie_between(both: Distilled) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    loading.load_adapter(pipe, file_format.read(both.path), "both", source="both", low_cpu_mem_usage=True, strict=True)
    latents, text = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 20, 64)

    @torch.no_grad()
    def drawn(styles: dict[str, float] | None) -> torch.Tensor:
        branch_weights.mix_styles(pipe, styles)
        found: torch.Tensor = pipe.unet(latents, torch.tensor([500, 500]), text).sample
        return found

    neon, ink, half = drawn({"neon": 1.0}), drawn({"ink": 1.0}), drawn({"neon": 0.5, "ink": 0.5})
    apart = float((neon - ink).norm())
    assert max(float((half - neon).norm()), float((half - ink).norm())) < apart
    torch.testing.assert_close(drawn(None), half, msg="a fixed router of equal logits is the even mix")


@pytest.mark.slow
def test_a_router_in_closed_form_is_nearer_than_the_even_mix(told: dict[str, Any], tmp_path: Path) -> None:
    options = {**told, "trajectories": 8, "states": 8}
    output = tmp_path / "routed.safetensors"
    result = distill(BASE, NEON, INK, output=output, size=200_000, dtype="fp16", router="learned", **options)
    assert 150_000 < result.size <= 200_000
    adapter = file_format.read(output)
    routers = [tensor for part in adapter.components.values() for layer in part.layers.values()
               for name, tensor in layer.tensors.items() if name.startswith("router.")]  # fmt: skip
    assert {tensor.dtype for tensor in routers} == {"F32"}
    branches = opened(options, (NEON, INK), tmp_path, dtype="fp16").branches()
    student = Student(branches[0].survey.runner, adapter.components, adapter.branches)
    found = standing_of(student, branches, routed=True)
    assert {name: one.error for name, one in found.routed.items()} == pytest.approx(result.fidelity["routed"], rel=1e-3)
    for name, leaf in student.leaves.items():
        if ".router." in name:
            leaf.data.zero_()
    even = standing_of(student, branches, routed=True)
    assert found.error < 0.9 * even.error


@pytest.mark.slow
def test_training_sees_every_branch_and_is_never_worse(told: dict[str, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {**told, **TRAINED}
    output = tmp_path / "trained.safetensors"
    result = distill(
        BASE, NEON, INK, output=output, size=200_000, dtype="bf16", method="trained", branches="night, pen",
        router="learned", **options,
    )  # fmt: skip
    adapter = file_format.read(result.path)
    assert 150_000 < result.size <= 200_000
    branches = opened(told, (NEON, INK), tmp_path, adapter.branches, dtype="bf16").branches()
    student = Student(branches[0].survey.runner, adapter.components, adapter.branches)
    again = standing_of(student, branches, routed=True)
    for field, found in (("branches", again.alone), ("routed", again.routed)):
        assert {name: one.error for name, one in found.items()} == pytest.approx(result.fidelity[field], rel=1e-3)
    assert any("where the router finds the branch named in the prompt: night 0." in note for note in result.notes)
    assert adapter.branches == ("night", "pen")
    document = adapter.about["training"]
    assert [step for step, _ in document["errors"]] == [0, 2]
    assert again.error <= document["started_at"] * 1.001
    routers = [
        layer.tensors["router.weight"].torch() for part in adapter.components.values() for layer in part.layers.values()
    ]
    assert all(router.shape[0] == 2 for router in routers)
    assert any(bool(router.any()) for router in routers)


def test_sharing_is_told_before_anything_is_made(told: dict[str, Any], models: list[Path], tmp_path: Path) -> None:
    command = ["distill", str(BASE), *map(str, models), "--sharing", "--json", "--prompts", str(told["prompts"])]
    command += ["--work", str(tmp_path / "work")]
    for name in ("cache", *TINY):
        command += ["--set", f"{name}={told[name]}"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["branches"] == ["neon", "ink"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "clever"}, r"router: no such router \(expected fixed, learned, found clever\)"),
        ({"steps": 5}, "steps: the method calibrated has no such option"),
        ({"method": "trained", "features": 0.5}, "features: is for one tuned model"),
        ({"branches": "one"}, "branches: every tuned model needs a name of its own"),
    ],
)
def test_what_several_models_cannot_have_is_refused_first(
    options: dict[str, Any], message: str, told: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        distill(BASE, NEON, INK, output=tmp_path / "out.safetensors", **told, **options)
    assert not list(tmp_path.iterdir())


def test_sharing_takes_several_models(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["distill", str(BASE), str(NEON), "--sharing"])
    assert result.exit_code == 2
    assert "sharing takes two tuned models or more" in result.output
