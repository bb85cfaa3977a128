"""What a type checker knows of an enabled pipeline."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import si_hub
from si_hub.errors import UsageError
from si_hub.pipelines import is_enabled

ROOT = Path(si_hub.__file__).resolve().parents[1]
#: A class as diffusers' are: a call of its own, and anything as an attribute.
SCRIPT = """
from typing import Any
import si_hub
from si_hub.pipelines import is_enabled

class Pipe:
    def __call__(self, prompt: str, *, steps: int = 50) -> list[int]:
        return [steps]
    def own(self) -> int:
        return 1
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

plain = Pipe()
pipe = si_hub.enable(plain)
report = pipe.load_styleinject_weights("ink.safetensors", adapter_name="ink", weight=0.5)
names: list[str] = report.missing  # WRONG: assignment
pipe.load_styleinject_weights("ink.safetensors", adaptername="ink")  # WRONG: call-arg
pipe.set_styleinject_adapters("ink", object())  # WRONG: arg-type
pictures: list[int] = pipe("cat", steps=4)
pipe("cat", stepz=4)  # WRONG: call-arg
pipe.unet.eval()
assert is_enabled(plain)
both: tuple[int, list[str]] = plain.own(), plain.get_active_styleinject_adapters()
plain.fuse_styleinject(lorascale=0.5)  # WRONG: call-arg
plain("cat", stepz=4)  # WRONG: call-arg
takes_its_own_type = [Pipe()]
takes_its_own_type.append(plain)
"""
SETTINGS = """
[mypy]
strict = true
explicit_package_bases = true
{skipped}
"""
SKIPPED = ("torch", "diffusers", "transformers", "peft", "accelerate", "huggingface_hub", "numpy", "jsonschema", "yaml")


@pytest.mark.slow
def test_mypy_catches_a_misspelt_keyword_of_ours_and_of_the_pipeline_s_own_call(tmp_path: Path) -> None:
    script, settings = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(SCRIPT, encoding="utf-8")
    skipped = "\n".join(f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = true" for name in SKIPPED)
    settings.write_text(SETTINGS.format(skipped=skipped), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, cwd=ROOT, check=False)
    found = dict(re.findall(r"script\.py:(\d+): error: .*\[([a-z-]+)\]", done.stdout))
    lines = enumerate(SCRIPT.splitlines(), 1)
    expected = {str(number): line.partition("# WRONG: ")[2] for number, line in lines if "# WRONG: " in line}
    assert found == expected, done.stdout


@pytest.mark.slow
def test_pyright_catches_the_same(tmp_path: Path) -> None:
    """By basedpyright, which is pyright with a Node.js of its own, in pyright's own mode."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "include": ["script.py"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--project", str(tmp_path)]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    found = {1 + one["range"]["start"]["line"] for one in json.loads(done.stdout)["generalDiagnostics"]}
    assert found == {number for number, line in enumerate(SCRIPT.splitlines(), 1) if "# WRONG: " in line}, done.stdout


def test_enable_returns_the_very_pipeline_and_refuses_what_is_none(sd: object) -> None:
    assert callable(sd)
    pipe = sd()
    assert si_hub.enable(pipe) is pipe
    assert is_enabled(pipe)
    assert not is_enabled(pipe.unet)
    with pytest.raises(UsageError, match=r"pipe: is no pipeline of diffusers \(found Linear\)"):
        si_hub.enable(torch.nn.Linear(1, 1))
