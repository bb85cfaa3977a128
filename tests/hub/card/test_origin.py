"""What a card says of an adapter's origin is for its reader; what the way back needs stays in the file."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import si_hub
from si_hub import format as file_format
from si_hub.hub.card.card import render
from si_hub.hub.card.origin import origin_rows
from tests.hub.loopback import LoopbackHub
from tests.hub.loopback.environment import turn_to
from tests.miniature import BASE, KOHYA_LORA


def test_a_conversion_is_told_without_its_layout() -> None:
    told = origin_rows(
        {
            "source": {"name": "neon.safetensors", "sha256": "ab12", "size": 213_348, "repo_id": "user/neon"},
            "family": "lora", "naming": "lora_unet_ diffusers", "alpha_layout": "F16 [] in 66 of 66 modules",
            "layout": {"unet": [{"prefix": "lora_unet_"}]}, "tool": "si-hub 0.1.0", "exact": True,
            "check": {"modules": 66, "largest_error": 1.3e-9},
        }
    )  # fmt: skip
    assert told == [
        ("made from", "neon.safetensors, 213.3 kB, of user/neon"),
        ("its SHA-256", "ab12"),
        ("kind", "lora"),
        ("made by", "si-hub 0.1.0"),
        ("exact", "yes, every number"),
        ("recomputed in float64", "66 layers, largest relative error 1.3e-09"),
    ]


def test_several_sources_and_what_is_not_whole_are_told() -> None:
    told = origin_rows({"sources": [{"name": "a"}, {"name": "b", "size": 5}], "error": 0.03, "left_out": 2})
    assert told == [
        ("made from", "a"), ("made from", "b, 5 B"), ("relative error", 0.03), ("left out", "2 tensors of the source"),
    ]  # fmt: skip


def test_a_strangers_document_of_other_types_is_no_error() -> None:
    assert origin_rows({"source": 3, "sources": "x", "family": [], "error": "no", "check": 1, "exact": "yes"}) == []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    from huggingface_hub import close_session

    with LoopbackHub(tmp_path / "hub") as hub:
        turn_to(hub.url, tmp_path / "home", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", hub.token("writer"))
        close_session()
        yield hub
        close_session()


def python_of(card: str) -> str:
    [code] = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    return str(code)


def push_card(folder: Path, hub: LoopbackHub, own: str) -> str:
    """The card of a converted LoRA, pushed with a front matter of the user's."""
    folder.mkdir()
    (folder / "README.md").write_text(own, encoding="utf-8")
    si_hub.convert(KOHYA_LORA, folder / "neon.safetensors", base=BASE)
    si_hub.push(folder, "user/neon", bars=False)
    return hub.repo("user/neon").files()["README.md"].decode()


def test_the_snippet_of_a_pushed_card_runs_as_it_is(
    tmp_path: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return str(BASE)

    monkeypatch.setattr("builtins.input", answer)
    known: dict[str, object] = {}
    exec(python_of(push_card(tmp_path / "mine", hub, "")), known)
    assert known["pipe"].get_list_styleinject_adapters().keys() == {"unet", "text_encoder"}  # type: ignore[attr-defined]
    assert asked == ["Folder of the base model: "]


@pytest.mark.slow
def test_the_snippet_takes_the_base_that_the_front_matter_names(tmp_path: Path, hub: LoopbackHub) -> None:
    """In a process of its own: diffusers keeps the address of the Hub that it has seen first."""
    hub.repo("user/base").commit({f.relative_to(BASE).as_posix(): f for f in BASE.rglob("*") if f.is_file()})
    code = python_of(push_card(tmp_path / "mine", hub, "---\nbase_model: user/base\n---\n"))
    told = [sys.executable, "-c", code + "print(sorted(pipe.get_list_styleinject_adapters()))"]
    environment = hub.environment(tmp_path / "other", "reader")
    done = subprocess.run(told, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.stdout.strip() == "['text_encoder', 'unet']", done.stderr


def test_a_card_has_no_inner_name_and_nothing_to_fill_in(tmp_path: Path) -> None:
    made = si_hub.convert(KOHYA_LORA, tmp_path / "neon.safetensors", base=BASE, check=True)
    card = render("", file_format.read(made.path), "user/neon", size=made.path.stat().st_size).text
    for word in ("path/to", "alpha_layout", "alpha layout", "layout", "suffixes", "lora\\_down", "{'", "None"):
        assert word not in card
    assert "| made from | kohya\\_lora.safetensors, 213.3 kB |" in card
    assert "| recomputed in float64 | 66 layers, largest relative error " in card
