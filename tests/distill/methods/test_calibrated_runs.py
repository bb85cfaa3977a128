"""``--method calibrated`` killed and resumed, in two processes, and at the size that the peers' extraction has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import si_hub
from benchmarks.extractors import EXTRACTORS, put_in
from examples.miniature.checkpoints import unfold
from examples.miniature.drawing import unseen_scenes
from examples.miniature.measures import noise_errors
from examples.miniature.report import render_scenes
from si_hub.distill import distill
from tests.distill.ways import FEW_WAYS, WAYS, pair_of
from tests.miniature import BASE, PROMPTS, checkpoint
from tests.places import ROOT
from tests.systems import posix_alone

pytestmark = pytest.mark.slow


CALL = """
import json
import sys
from pathlib import Path
import torch
from si_hub.distill import distill

torch.set_num_threads(1)
BASE, TUNED, PROMPTS, FOLDER, MORE = sys.argv[1:6]

def run(output, cache):
    distill(
        BASE, TUNED, output=f"{FOLDER}/{output}", method="calibrated", size=60_000, dtype="fp16", prompts=PROMPTS,
        cache=f"{FOLDER}/{cache}", trajectories=12, states=3, sampling_steps=5, pieces=8, held_out=4, batch=4,
        force=True, **json.loads(MORE),
    )
"""
#: Runs once for the parts it keeps, then again and again, each time killed at a random part, and then to the end.
KILLED = (
    CALL
    + """
import random
from tests.killing import Fork

def kept(cache):
    return len(list(Path(FOLDER, cache).glob("*/*.safetensors")))

# Here first, so that what the children do is the work and not the imports.
run("whole.safetensors", "whole")
assert Fork(lambda: run("again.safetensors", "again")).wait() == 0
for part in sorted(random.Random(0).sample(range(1, kept("again") + 1), 10)):
    Fork(lambda: run("killed.safetensors", "killed")).end(lambda: kept("killed") >= part)
    print(kept("killed"))
assert Fork(lambda: run("killed.safetensors", "killed")).wait() == 0
"""
)


def arguments(folder: Path, way: str) -> list[str]:
    return [*map(str, pair_of(way, folder)), str(PROMPTS), str(folder), json.dumps(WAYS[way][2])]


@posix_alone
@pytest.mark.parametrize("way", FEW_WAYS)
def test_killed_at_ten_random_moments_it_goes_on_to_the_same_bytes(way: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, *arguments(tmp_path, way)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    kept = [int(count) for count in done.stdout.split()]
    assert len(kept) == 10
    assert len(set(kept)) > 2, "the killed runs left nothing to go on from"
    whole = (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "again.safetensors").read_bytes() == whole
    assert (tmp_path / "killed.safetensors").read_bytes() == whole


@pytest.mark.parametrize("way", FEW_WAYS)
def test_two_processes_make_the_same_adapter_as_one(
    way: str, tmp_path: Path, two_processes: Callable[..., str]
) -> None:
    script, given = tmp_path / "call.py", arguments(tmp_path, way)
    script.write_text(f"{CALL}\nrun(sys.argv[6], sys.argv[6] + '-cache')\n", encoding="utf-8")
    subprocess.run([sys.executable, str(script), *given, "one"], capture_output=True, check=True)
    two_processes(str(script), *given, "two")
    one, two = (load_file(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("style", "dim", "bar"), [("neon", 2, 0.45)])
def test_at_the_size_of_lycoris_s_extraction_it_leaves_a_fraction_of_its_error(
    style: str, dim: int, bar: float, tmp_path: Path
) -> None:
    """The table of benchmarks.distill_quality has every style at every dim; on held-out pictures and prompts."""
    si_hub.enable()
    torch.set_num_threads(1)
    base, peer, ours = (StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None) for _ in range(3))
    tuned = checkpoint(style)
    teacher, file = unfold(tuned), tmp_path / "lycoris.safetensors"
    tensors = EXTRACTORS["lycoris"](base, teacher, dim)
    save_file(tensors, file)
    put_in(peer, tensors)
    made = distill(
        BASE, tuned, output=tmp_path / "ours.safetensors", method="calibrated", size=file.stat().st_size,
        dtype="fp16", prompts=PROMPTS, cache=tmp_path / "cache",
    )  # fmt: skip
    assert made.size <= file.stat().st_size
    ours.load_styleinject_weights(made.path)
    scenes = unseen_scenes(60)
    with torch.no_grad():
        latents = base.vae.encode(render_scenes(scenes, style)).latent_dist.mean * base.vae.config.scaling_factor
    prompts = [scene.prompt() for scene in scenes]
    errors = [noise_errors(pipe, teacher, base, latents, prompts)[1] for pipe in (ours, peer)]
    assert errors[0] <= bar * errors[1]
