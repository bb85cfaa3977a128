"""Headers of a repository's weights: of every file, with what PEFT's need, from the cache where it has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from si_hub.errors import (
    FormatError,
    MissingEntry,
    MissingRepository,
)
from si_hub.hub.pull import pull
from si_hub.inspection import Inspection, inspect
from tests.hub.loopback import LoopbackHub
from tests.hub.pull.world import FILES, OURS, STYLE, kohya, peft


def one(reference: str, **options: Any) -> Inspection:
    found = inspect(reference, **options)
    assert isinstance(found, Inspection)
    return found


def rest(found: Inspection) -> dict[str, Any]:
    return {name: value for name, value in found.as_dict().items() if name not in ("path", "problem")}


def test_what_the_cache_has_is_read_there(style: LoopbackHub) -> None:
    pull(STYLE)
    style.log.clear()
    assert one(STYLE).kind == "styleinject"
    assert len(style.log) == 1


def test_every_file_at_the_top_is_listed(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"a.safetensors": OURS, "b.safetensors": kohya(), "c/d.safetensors": OURS})
    found = inspect(STYLE)
    assert isinstance(found, list)
    assert [(item.path.name, item.kind) for item in found] == [
        ("a.safetensors", "styleinject"), ("b.safetensors", "adapter"),
    ]  # fmt: skip


def test_a_peft_adapter_is_read_with_its_configuration(client: LoopbackHub, home: Path) -> None:
    client.repo("user/peft").commit(peft())
    found = one("user/peft", base="sd15")
    assert (found.family, found.parts["unet"].alphas) == ("lora", {"8": 1})
    assert not list(home.rglob("adapter_model.safetensors"))


def test_a_broken_header_is_the_repository_s(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"a.safetensors": b"nonsense" * 10})
    with pytest.raises(FormatError, match=rf"{STYLE}@[0-9a-f]{{40}}/a\.safetensors: "):
        inspect(STYLE)
    client.repo("user/none").commit({"model.bin": b"x"})
    with pytest.raises(MissingEntry, match="holds no safetensors file"):
        inspect("user/none")


def test_a_private_repository_needs_its_token(style: LoopbackHub) -> None:
    style.repo("user/secret", private=True).commit(FILES)
    with pytest.raises(MissingRepository):
        inspect("user/secret")
    assert one("user/secret", token=style.token("reader")).kind == "styleinject"
    assert all("authorization" not in entry.headers for entry in style.log if entry.server == "files")
