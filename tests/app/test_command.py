"""`si-hub app` before there is a page."""

from __future__ import annotations

import importlib.util

import pytest
from click.testing import CliRunner

from si_hub.app import command
from si_hub.app.command import is_open_to_others
from si_hub.cli import main
from tests.miniature import BASE, KOHYA_LORA


def test_without_its_extra_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "gradio" else found(name))
    done = CliRunner().invoke(main, ["app", str(KOHYA_LORA), "--base", str(BASE), "--host", "0.0.0.0"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "si-hub: whoever reaches 0.0.0.0 can draw with this machine; there is no password",
        'si-hub: the page needs gradio. Install it: pip install "si-hub[app]"',
    ]


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("192.168.1.2", True),
     ("box", True)],
)  # fmt: skip
def test_which_addresses_others_reach(host: str, is_open: bool) -> None:
    assert is_open_to_others(host) is is_open
