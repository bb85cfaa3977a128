"""A Hugging Face Space, or a page on this machine: ``si-hub app`` with its settings by variables.

ADAPTERS names them, files or repositories, between spaces; BASE a folder or a repository, which is fetched where it is
not there; PROMPT, STEPS and GUIDANCE what is drawn first.
"""

from __future__ import annotations

import os
from pathlib import Path

from si_hub.app.command import HOST, app
from si_hub.errors import SiHubError, UsageError

HERE = Path(__file__).resolve().parent


def fetch(base: str) -> str:
    """The folder of a base: it, or its repository's in the cache, fetched without a pickle."""
    from diffusers import DiffusionPipeline

    if Path(base).is_dir():
        return base
    return str(DiffusionPipeline.download(base, use_safetensors=True))


def main() -> None:
    adapters, base = os.environ.get("ADAPTERS", "").split(), os.environ.get("BASE", "")
    if not adapters or not base:
        raise UsageError("ADAPTERS and BASE are not set", hint="Set them in the Space's settings, or in the shell")
    app(
        [str(HERE / one) if (HERE / one).exists() else one for one in adapters],
        fetch(base),
        # A Space says by this where it listens; anywhere else it is this machine alone.
        host=os.environ.get("GRADIO_SERVER_NAME", HOST),
        port=int(port) if (port := os.environ.get("GRADIO_SERVER_PORT")) else None,
        prompt=os.environ.get("PROMPT"),
        steps=int(os.environ.get("STEPS", "20")),
        guidance=float(os.environ.get("GUIDANCE", "5")),
        ready=lambda url: print(url, flush=True),
    )


if __name__ == "__main__":
    try:
        main()
    except SiHubError as error:
        raise SystemExit(f"app.py: {error}") from None
