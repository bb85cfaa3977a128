"""`si-hub app`: the page, served from this machine until it is interrupted."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from si_hub.errors import UsageError
from si_hub.words import label

#: Where it listens unless told otherwise: on this machine alone.
HOST = "127.0.0.1"
#: What a page draws first where the adapters tell nothing.
_PROMPT = "a lighthouse on a cliff above the sea"


def app(
    adapters: Sequence[str | Path],
    base: str | Path | None = None,
    *,
    host: str = HOST,
    port: int | None = None,
    device: str | None = None,
    prompt: str | None = None,
    steps: int = 20,
    guidance: float = 5.0,
    browser: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a page to play with adapters on a base model; returns when it is interrupted.

    Args:
        adapters: files, folders or repositories of StyleInject or of any family that is converted.
        base: a diffusers folder or a repository of the local cache; by default the one that the first adapter names.
        host: the address to listen on; any but this machine's own lets others draw on it.
        port: by default the first free one from 7860 on.
        device: ``cpu``, ``cuda`` ...; by default the machine's best.
        prompt: drawn first; by default the first adapter's preview prompt.
        steps, guidance: of the first picture.
        browser: open the page in one.
        ready: called with the page's address once it is there.

    Raises:
        UsageError: gradio is not installed, no adapter or base is named, or the port is taken.
        SiHubError: as of `Studio`.
    """
    if find_spec("gradio") is None:
        raise UsageError("the page needs gradio", hint='Install it: pip install "si-hub[app]"')
    from si_hub.app.page import build_page, page_look
    from si_hub.app.studio import Scene, Studio

    studio = Studio([str(one) for one in adapters], base, device)
    scene = Scene(prompt if prompt is not None else studio.preview_prompt() or _PROMPT, 0, steps, guidance)
    with tempfile.TemporaryDirectory(prefix="si-hub-app-") as folder:
        page = build_page(studio, scene, Path(folder))
        try:
            _, url, _ = page.launch(
                server_name=host, server_port=port, inbrowser=browser, prevent_thread_lock=True, **page_look()
            )
        except OSError as error:
            raise UsageError("cannot be listened on", key=label("port"), found=port or str(error)) from error
        try:
            if ready is not None:
                ready(url)
            page.block_thread()
        finally:
            page.close(verbose=False)


def is_open_to_others(host: str) -> bool:
    """Whether an address is reached from other machines."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
