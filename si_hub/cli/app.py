"""`si-hub app`."""

from __future__ import annotations

from typing import Any

import click

from si_hub.cli.group import main
from si_hub.cli.options import GivenModel
from si_hub.cli.printing import complain, say


@main.command("app")
@click.argument("adapters", type=GivenModel(), nargs=-1, required=True)
@click.option("--base", type=GivenModel(), metavar="PATH|REPO", help="Base model.  [default: the one ADAPTERS names]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="[default: the first free one from 7860 on]")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, xpu or mps.  [default: the machine's best]")
@click.option("--prompt", metavar="TEXT", help="Drawn first.  [default: the adapter's preview prompt]")
@click.option("--steps", type=click.IntRange(1, 100), default=20, show_default=True, help="Steps of sampling.")
@click.option("--guidance", type=click.FloatRange(0, 20), default=5.0, show_default=True, help="Guidance scale.")
@click.option("--browser", is_flag=True, help="Open the page in a browser.")
def app_command(adapters: tuple[str, ...], host: str, **options: Any) -> None:
    """A page to play with ADAPTERS: weights and styles by sliders, beside the base, and the mix as a file.

    ADAPTERS are files, folders or repositories of StyleInject or any other family. Needs gradio, the extra `app`. It
    listens on this machine alone unless --host says otherwise, and ends with Ctrl-C.

    \b
    Examples:
      si-hub app style.safetensors --base base/
      si-hub app ink.safetensors user/neon --base stable-diffusion-v1-5/stable-diffusion-v1-5
      si-hub app styles.safetensors --port 8000 --browser
    """
    from si_hub.app.command import app, is_open_to_others

    if is_open_to_others(host):
        complain(f"whoever reaches {host} can draw with this machine; there is no password")
    app(adapters, host=host, ready=say, **options)
