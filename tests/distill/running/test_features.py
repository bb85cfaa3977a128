"""The features' loss against its formula, from hooks of one's own."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiffusionPipeline

from examples.miniature.checkpoints import unfold
from si_hub.distill.pair.matching import Pair, match_all
from si_hub.distill.running.features import Features, blocks, record
from si_hub.distill.running.runner import Runner
from si_hub.distill.running.trajectory import trajectories
from tests.distill.running.sampled import states
from tests.miniature import BASE, INK, NEON, open_pair


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_block_counts_by_its_relative_squared_error() -> None:
    runner = Runner(open_pair(INK))
    state = trajectories(runner, ["a small red star in the middle, on sand"], [1], steps=2)[1]
    predicted, loss = Features(runner.pair, runner, 0.25).compare(runner, state)
    assert torch.equal(predicted, runner(state))
    made: list[dict[str, torch.Tensor]] = []
    for pipe in (DiffusionPipeline.from_pretrained(BASE, safety_checker=None), unfold(INK)):
        made.append({})
        blocks = dict(pipe.unet.named_modules())
        for name in ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"):

            def keep(module: object, given: object, output: object, name: str = name) -> None:
                made[-1][name] = output[0] if isinstance(output, tuple) else output  # type: ignore[assignment]

            blocks[name].register_forward_hook(keep)
        text = pipe.encode_prompt(list(state.prompts), "cpu", 1, False)[0]
        with torch.no_grad():
            pipe.unet(state.inputs["sample"], state.inputs["timestep"], text)
    own, tuned = made
    shares = [float(((own[name] - value).norm() / value.norm()) ** 2) for name, value in tuned.items()]
    assert float(loss) == pytest.approx(0.25 * sum(shares) / 5, rel=1e-4)


@pytest.fixture(scope="session")
def pair() -> Pair:
    return match_all(BASE, [NEON])[0]


@pytest.fixture(scope="module")
def runner(pair: Pair) -> Runner:
    return Runner(pair)


def test_features_are_those_of_every_block_and_tell_base_from_tuned(runner: Runner, pair: Pair) -> None:
    some = states(runner)
    names = {id(module): name for name, module in runner.denoiser.named_modules()}
    assert [names[id(block)] for block in blocks(runner.denoiser)] == [
        "down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1", "mid_block",
    ]  # fmt: skip
    with record(runner.denoiser) as found:
        runner(some)
    assert len(found) == 5
    assert not runner.denoiser.mid_block._forward_hooks  # type: ignore[union-attr]
    features = Features(pair, runner, weight=0.5)
    with torch.no_grad():
        predicted, error = features.compare(runner, some)
        assert torch.equal(predicted, runner(some))
        runner.mix(1.0)
        _, none = features.compare(runner, some)
        runner.mix(0.0)
    assert float(error) > 0
    assert float(none) == 0
