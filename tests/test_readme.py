"""README is what a newcomer runs, top to bottom: every block of it works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tests.hub.loopback import LoopbackHub  # noqa: E402

BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
#: What the make targets do; the demo is run below by its own command.
ELSEWHERE = ("make ", "pip install")
OFFLINE = {"HF_HUB_OFFLINE": "1"}


def test_readme_names_both_commands_of_a_newcomer() -> None:
    first = next(text for language, text in BLOCKS if language == "sh")
    assert first.split("\n")[:2] == ["make demo", "make test"]


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
        lora = ROOT / "examples" / "miniature" / "peers" / "kohya_lora.safetensors"
        hub.repo("user/lora").commit({"lora.safetensors": lora})
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


def test_every_block_of_the_readme_runs(workplace: Path, online: dict[str, str]) -> None:
    shell = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    for line in shell:
        if not line.startswith(ELSEWHERE):
            run(["sh", "-c", line], workplace, online)
    python = "".join(text for language, text in BLOCKS if language == "python")
    run([sys.executable, "-c", python + "\nassert trainable\n"], workplace, online)
