"""Which file of a repository is the adapter: by names, by headers, or asked for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

import si_hub
from si_hub.cli import main
from si_hub.errors import (
    MissingEntry,
    NotStyleInject,
    UsageError,
)
from si_hub.hub.pull.fetching import fetch_adapter
from si_hub.words import at_command_line
from tests.hub.loopback import LoopbackHub
from tests.hub.pull.world import OURS, STYLE, kohya, peft
from tests.places import GOLDEN

OTHER = (GOLDEN / "one_branch.safetensors").read_bytes()


def files(hub: LoopbackHub) -> list[str]:
    names = [entry.path.rpartition("/")[2] for entry in hub.log if "/resolve/" in entry.path]
    hub.log.clear()
    return sorted(names)


def test_an_adapter_of_any_name_is_found_by_its_header_among_others(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"ink.safetensors": OURS, "lora.safetensors": kohya(), "odd.safetensors": b"nonsense"})
    found = fetch_adapter(STYLE)
    assert (found.path.name, found.path.read_bytes()) == ("ink.safetensors", OURS)
    ranges = [entry.headers.get("range") for entry in client.log if entry.server == "files"]
    assert sum(given is not None for given in ranges) == 3
    client.log.clear()
    assert fetch_adapter(STYLE) == fetch_adapter(found.lock) == found
    assert len(client.log) == 1


def test_names_tell_first(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"styleinject.safetensors": OURS, "b.safetensors": OTHER, "s/c.safetensors": OTHER})
    assert fetch_adapter(STYLE).name == "styleinject.safetensors"
    assert fetch_adapter(STYLE, weight_name="b.safetensors").path.read_bytes() == OTHER
    assert fetch_adapter(STYLE, subfolder="s").name == "s/c.safetensors"
    assert fetch_adapter(STYLE, subfolder="s/", weight_name="c.safetensors").name == "s/c.safetensors"
    assert fetch_adapter(STYLE, weight_name="s/c.safetensors").name == "s/c.safetensors"


def test_several_adapters_are_listed(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"b.safetensors": OTHER, "a.safetensors": OURS})
    with pytest.raises(UsageError, match=r"several adapters \(found a\.safetensors, b\.safetensors\).*weight_name="):
        fetch_adapter(STYLE)


def test_too_many_weights_are_not_looked_at(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({f"{number}.safetensors": b"x" for number in range(17)})
    with pytest.raises(UsageError, match="several adapters"):
        fetch_adapter(STYLE)
    assert files(client) == []


@pytest.mark.parametrize("name", ["gone.safetensors", "README.md", "pytorch_model.bin", "../styleinject.safetensors"])
def test_a_file_that_is_not_there_or_not_safe_is_not_fetched(name: str, style: LoopbackHub) -> None:
    with pytest.raises(MissingEntry):
        fetch_adapter(STYLE, weight_name=name)
    assert files(style) == []


@pytest.mark.parametrize("held", [{"lora.safetensors": kohya()}, {f"unet/{n}": d for n, d in peft().items()}, peft()])
def test_somebody_else_s_adapter_shows_the_command_without_being_fetched(
    held: dict[str, bytes | str], client: LoopbackHub
) -> None:
    client.repo("user/lora").commit({**held, "README.md": "hi"})
    with pytest.raises(NotStyleInject, match=r"user/lora.*si_hub\.convert\('user/lora'\).*convert=True"):
        fetch_adapter("user/lora")
    assert all(entry.answered <= 100_000 and "range" in entry.headers for entry in client.log if "/blob/" in entry.path)


@pytest.mark.parametrize("inside", [None, "v2"])
@pytest.mark.parametrize("names", [("a.safetensors",), ("a'; $(b) &.safetensors", "c.safetensors")])
def test_the_command_that_is_shown_converts_what_was_asked_for(
    names: tuple[str, ...], inside: str | None, client: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repo = client.repo("user/lora")
    repo.commit({f"{inside}/{name}" if inside else name: kohya() for name in reversed(names)})
    repo.tag("v1")
    with at_command_line(), pytest.raises(NotStyleInject) as caught:
        fetch_adapter("user/lora", revision="v1", subfolder=inside)
    command = re.search(r"si-hub (convert .*?), or load it", str(caught.value.hint))
    assert command is not None
    assert "user/lora@v1" in command[1]
    result = CliRunner().invoke(main, shlex.split(command[1], comments=True))
    assert result.exit_code == 0, result.stderr
    (tmp_path / "lora.styleinject.safetensors").unlink()
    with pytest.raises(NotStyleInject) as caught:
        fetch_adapter("user/lora", revision="v1", subfolder=inside)
    call = re.search(r"(si_hub\.convert\(.*?\)), or load it", str(caught.value.hint))
    assert call is not None
    eval(call[1], {"si_hub": si_hub})
    assert (tmp_path / "lora.styleinject.safetensors").is_file()


def test_foreign_adapters_come_with_what_they_need(client: LoopbackHub) -> None:
    client.repo("user/peft").commit({**peft(), "config.json": "{}", "big.safetensors": b"x" * 20_000})
    found = fetch_adapter("user/peft", want="foreign")
    assert (found.name, found.ours) == ("adapter_model.safetensors", False)
    assert (found.path.parent / "adapter_config.json").is_file()
    assert files(client) == ["adapter_config.json", "adapter_model.safetensors", "config.json"]
    client.repo("user/parts").commit({f"unet/{name}": data for name, data in peft().items()})
    parts = fetch_adapter("user/parts", want="foreign")
    assert sorted(path.name for path in (parts.path / "unet").iterdir()) == sorted(peft())


def test_any_adapter_is_ours_where_there_is_one(client: LoopbackHub) -> None:
    client.repo("user/both").commit({"mine.safetensors": OURS, "theirs.safetensors": kohya()})
    assert fetch_adapter("user/both", want="any").name == "mine.safetensors"
    assert fetch_adapter("user/both", want="foreign").name == "theirs.safetensors"
