"""How a client finds this Hub and nothing else: environment variables are read when huggingface_hub is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: What a client outside must not bring along: settings, tokens, caches and proxies of the machine.
FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_CACHE_HOME", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def client_settings(url: str, home: str | Path, token: str | None = None) -> dict[str, str]:
    """The variables that turn a client to the Hub at ``url``, with cache and token file in ``home``."""
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "localhost,127.0.0.1",
    }
    return settings | ({"HF_TOKEN": token} if token else {})


def client_environment(url: str, home: str | Path, token: str | None = None) -> dict[str, str]:
    """This process's environment without what is `FOREIGN`, with `client_settings`."""
    own = {name: value for name, value in os.environ.items() if not name.upper().startswith(FOREIGN)}
    return own | client_settings(url, home, token)


def turn_to(url: str, home: str | Path, patch: pytest.MonkeyPatch) -> None:
    """Turn the huggingface_hub of this process, which may have read its environment long ago, to the Hub at ``url``."""
    for name in [name for name in os.environ if name.upper().startswith(FOREIGN)]:
        patch.delenv(name)
    settings = client_settings(url, home)
    for name, value in settings.items():
        patch.setenv(name, value)
    from huggingface_hub import constants

    home = Path(home)
    paths = {"HF_HOME": home, "HF_HUB_CACHE": home / "hub", "HUGGINGFACE_HUB_CACHE": home / "hub"}
    paths |= {"HF_ASSETS_CACHE": home / "assets", "HF_TOKEN_PATH": home / "token"}
    paths |= {"HF_STORED_TOKENS_PATH": home / "stored_tokens", "AGENT_HARNESSES_PATH": home / ".agent_harnesses.json"}
    for name, path in paths.items():
        patch.setattr(constants, name, str(path))
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"):
        patch.setattr(constants, name, True)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
