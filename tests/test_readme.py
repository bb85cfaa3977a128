"""README is what a newcomer runs, top to bottom: every block of it works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.numpy import save_file

from tests.hub.loopback import LoopbackHub
from tests.miniature import KOHYA_LORA
from tests.places import ROOT

BLOCKS = re.findall(
    r"^```(sh|python)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
#: What the make targets do; the demo is run below by its own command.
ELSEWHERE = ("make ", "pip install")
#: Run first by an interpreter, which then finds none of these modules, as if they were not installed.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Fewer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {modules!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Fewer
"""
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def test_readme_names_both_commands_of_a_newcomer() -> None:
    first = next(text for language, text in BLOCKS if language == "sh")
    assert first.split("\n")[:2] == ["make demo", "make test"]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def named_extras() -> set[str]:
    """The extras that README's own install line has."""
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    [install] = [line for line in lines if line.startswith("pip install")]
    found = re.fullmatch(r'pip install (?:\.|"\.\[([a-z,]+)\]")', install)
    assert found is not None
    return set((found[1] or "").split(",")) - {""}


def installed_by(extras: set[str]) -> set[str]:
    """The distributions that come with si-hub and some extras of it, and with what these need."""
    wanted, found = [("si-hub", frozenset(extras))], set[tuple[str, frozenset[str]]]()
    while wanted:
        name, asked = one = wanted.pop()
        if one in found:
            continue
        try:
            needed = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue  # For another system, or left out here.
        found.add(one)
        wanted += [
            (canonicalize_name(need.name), frozenset(need.extras))
            for need in needed
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in asked | {""})
        ]
    return {name for name, _ in found}


def owners() -> dict[str, set[str]]:
    """Distributions by top-level module, by their files: Python 3.10's own list has only those with a top_level.txt."""
    found: dict[str, set[str]] = {}
    for one in metadata.distributions():
        for file in one.files or ():
            name = file.parts[0].partition(".")[0]
            if file.suffix in {".py", ".so", ".pyd"} and name.isidentifier():
                found.setdefault(name, set()).add(canonicalize_name(one.metadata["Name"]))
    return found


@pytest.fixture(scope="session")
def fewer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an interpreter that has what README's install line installs, and nothing else."""
    kept = installed_by(named_extras()) | {"setuptools", "pip"}
    hidden = sorted(name for name, by in owners().items() if not kept & by)
    assert {"pytest", "lycoris", "hypothesis"} <= set(hidden)
    folder = tmp_path_factory.mktemp("fewer")
    (folder / "sitecustomize.py").write_text(WITHOUT.replace("{modules!r}", repr(set(hidden))), encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def test_a_report_without_its_extra_says_how_to_install_it(workplace: Path, fewer: dict[str, str]) -> None:
    """The extra is needed; and where something is not installed, the interpreter of these tests is without it."""
    file = Path(fewer["PYTHONPATH"].split(os.pathsep)[0]) / "sitecustomize.py"
    bare = workplace / "bare"
    bare.mkdir()
    (bare / "sitecustomize.py").write_text(
        file.read_text(encoding="utf-8").replace("in {", "in {'matplotlib', "), encoding="utf-8"
    )
    miniature = "examples/miniature"
    command = [
        "si-hub", "distill", f"{miniature}/base", f"{miniature}/checkpoints/ink.safetensors", "--report", "ink.html",
    ]  # fmt: skip
    with pytest.raises(AssertionError, match=r'a report needs matplotlib\. Install it: pip install "si-hub\[report\]"'):
        run(command, workplace, OFFLINE | {"PYTHONPATH": fewer["PYTHONPATH"].replace(str(file.parent), str(bare))})


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with what README takes for granted: a community LoRA beside the repository's examples."""
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {
        f"{stem}.lora_down.weight": np.ones((4, 1280), np.float16),
        f"{stem}.lora_up.weight": np.ones((1280, 4), np.float16),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": np.ones((4, 768), np.float16),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": np.ones((768, 4), np.float16),
    }
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"ss_base_model_version": "sd_v1"})
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.fixture
def online(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody who is logged in to a Hub, where user/lora holds a LoRA."""
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.repo("user/lora").commit({"lora.safetensors": KOHYA_LORA})
        yield hub.environment(tmp_path / "home", "writer")


def run(command: list[str], folder: Path, settings: Mapping[str, str] = OFFLINE) -> str:
    scripts = str(Path(sys.executable).parent)
    caches = {"XDG_CACHE_HOME": str(folder / ".cache")}
    environment = {**os.environ, **caches, **settings, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_converts_loads_and_unloads_without_a_trace(workplace: Path) -> None:
    done = run([sys.executable, "-m", "examples.miniature.demo", "--out", "demo", "--count", "12"], workplace)
    assert done.count("0.0e+00") == 2
    assert (workplace / "demo" / "grid.png").stat().st_size > 10_000
    assert (workplace / "demo" / "neon.safetensors").exists()


def test_every_block_of_the_readme_runs_with_what_its_install_line_installs(
    workplace: Path, online: dict[str, str], fewer: dict[str, str]
) -> None:
    shell = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    for line in shell:
        if not line.startswith(ELSEWHERE):
            run(["sh", "-c", line], workplace, online | fewer)
    python = "".join(text for language, text in BLOCKS if language == "python")
    run([sys.executable, "-c", python + "\nassert image.size == (32, 32)\n"], workplace, online | fewer)
