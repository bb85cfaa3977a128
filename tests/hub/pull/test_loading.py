"""Loading an adapter into a pipeline by its repository's id, as diffusers' users would."""

# ruff: noqa: F811  (arguments are the fixtures that are imported)
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from si_hub import format as file_format
from si_hub.errors import AuthError, BaseMismatch, ChecksumError, HubWarning, MissingEntry, NotStyleInject, UsageError
from si_hub.pipelines.sources import Fetch
from tests.hub.loopback import LoopbackHub, faults
from tests.pipelines.conftest import (  # noqa: F401  (fixtures)
    _enabled,
    _seeded,
    adapter,
    as_kohya,
    as_lora,
    error,
    lora,
    noise,
    sd,
)

Make = Callable[..., Any]
STYLE, LORA = "user/style", "user/lora"


@pytest.fixture
def pipe(sd: Make) -> Any:
    return sd()


@pytest.fixture
def style(client: LoopbackHub, waits: list[float], pipe: Any, lora: Make, adapter: Make, tmp_path: Path) -> Path:
    """An adapter of the pipeline, and user/style on the Hub that holds it with a card and a pickle."""
    file = file_format.write(adapter(unet=lora(pipe.unet)), tmp_path / "ink.safetensors").path
    files: dict[str, Any] = {"styleinject.safetensors": file, "config.json": "{}", "README.md": "# Ink", "x.bin": b"1"}
    client.repo(STYLE).commit(files)
    return file


@pytest.fixture
def base(pipe: Any, tmp_path: Path) -> Path:
    pipe.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def theirs(client: LoopbackHub, waits: list[float], sd: Make, lora: Make, as_kohya: Make, tmp_path: Path) -> Any:
    """user/lora on the Hub holds a kohya LoRA; a pipeline that loaded it as diffusers does."""
    pipe = sd()
    state = as_kohya(lora(pipe.unet, ("to_q", "to_v"), rank=4, alpha=2.0), "lora_unet")
    save_file(state, tmp_path / "lora.safetensors")
    client.repo(LORA).commit({"lora.safetensors": tmp_path / "lora.safetensors", "old.ckpt": b"1"})
    pipe.load_lora_weights(state)
    return pipe


def test_by_its_id_it_is_what_it_is_by_its_path(style: Path, client: LoopbackHub, sd: Make, noise: Make) -> None:
    by_path, by_id = sd(), sd()
    by_path.load_styleinject_weights(style)
    report = by_id.load_styleinject_weights(STYLE, adapter_name="ink")
    assert torch.equal(noise(by_id), noise(by_path))
    assert report.notes == ()
    assert client.repo(STYLE).head() in report.source
    assert {entry.path.rpartition("/")[2] for entry in client.log if "/resolve/" in entry.path} == {
        "styleinject.safetensors", "config.json",
    }  # fmt: skip


def test_every_keyword_of_from_pretrained_is_taken(style: Path, client: LoopbackHub, pipe: Any, tmp_path: Path) -> None:
    repo = client.repo("user/secret", private=True)
    repo.commit({"sub/ink.safetensors": style})
    repo.tag("v1")
    keywords: dict[str, Any] = {
        "revision": "v1", "subfolder": "sub", "weight_name": "ink.safetensors", "cache_dir": tmp_path / "cache",
        "token": client.token("reader"), "low_cpu_mem_usage": False,
    }  # fmt: skip
    pipe.load_styleinject_weights("user/secret", **keywords, force_download=True)
    client.log.clear()
    pipe.load_styleinject_weights("user/secret", **keywords, local_files_only=True)
    assert len(client.log) == 0
    assert type(pipe).styleinject_state_dict(
        "user/secret@v1", **{k: v for k, v in keywords.items() if k[0] not in "rl"}
    )
    with pytest.raises(TypeError, match="use_safetensors"):
        pipe.load_styleinject_weights("user/secret", use_safetensors=True)
    with pytest.raises(AuthError):
        pipe.load_styleinject_weights("user/secret", token="hf_wrong", force_download=True)


def test_cached_and_pinned_zero_requests_by_branch_at_most_two(style: Path, client: LoopbackHub, sd: Make) -> None:
    sd().load_styleinject_weights(STYLE)
    client.log.clear()
    sd().load_styleinject_weights(STYLE)
    assert len(client.log) <= 2
    client.log.clear()
    sha = client.repo(STYLE).head()
    sd().load_styleinject_weights(STYLE, revision=sha)
    sd().load_styleinject_weights(f"{STYLE}@{sha}")
    assert len(client.log) == 0


def test_numbers_that_are_not_those_that_were_written_are_refused(style: Path, client: LoopbackHub, pipe: Any) -> None:
    """The Hub's hash is right: the file was broken before it was pushed."""
    data = bytearray(style.read_bytes())
    data[-1] ^= 1
    client.repo(STYLE).commit({"styleinject.safetensors": bytes(data)})
    for load in (pipe.load_styleinject_weights, type(pipe).styleinject_state_dict):
        with pytest.raises(ChecksumError, match="tensors_sha256"):
            load(STYLE)
    assert pipe.get_list_styleinject_adapters() == {}


def test_without_a_network_the_cache_answers_and_says_so(style: Path, client: LoopbackHub, sd: Make) -> None:
    sd().load_styleinject_weights(STYLE)
    client.fault(faults.dropped(), times=None)
    with pytest.warns(HubWarning, match="the cache has it"):
        assert sd().load_styleinject_weights(STYLE).matched


def test_a_lora_in_the_repository_shows_both_ways_to_have_it(theirs: Any, pipe: Any) -> None:
    with pytest.raises(NotStyleInject, match=r"user/lora: .*si_hub\.convert\('user/lora'\).*convert=True"):
        pipe.load_styleinject_weights(LORA, convert=False)
    with pytest.raises(NotStyleInject, match=r"si_hub\.convert\('user/lora', weight_name='lora\.safetensors'\)"):
        pipe.load_styleinject_weights(LORA, weight_name="lora.safetensors", convert=False)


def test_a_lora_of_the_hub_is_converted_in_memory_and_the_report_says_so(
    theirs: Any,
    pipe: Any,
    base: Path,
    noise: Make,
    error: Make,
    tmp_path: Path,
) -> None:
    before = noise(pipe)
    report = pipe.load_styleinject_weights(LORA, "theirs")
    assert error(noise(pipe), before) > 0.01
    assert error(noise(pipe), noise(theirs)) < 1e-5
    assert report.notes[0].startswith("converted in memory, exactly: lora for StableDiffusionPipeline (lora_unet")
    assert f"note: {report.notes[0]}" in str(report)
    saved = pipe.save_styleinject_weights(tmp_path / "saved", "theirs")
    again = type(pipe).from_pretrained(base, safety_checker=None)
    again.load_styleinject_weights(saved.path)
    assert torch.equal(noise(again), noise(pipe))


@pytest.mark.parametrize("form", ["file", "folder"])
def test_local_files_of_others_are_converted_too_unless_that_is_refused(
    form: str,
    theirs: Any,
    pipe: Any,
    base: Path,
    noise: Make,
    error: Make,
    tmp_path: Path,
) -> None:
    (tmp_path / "alone").mkdir()
    file = (tmp_path / "lora.safetensors").rename(tmp_path / "alone" / "lora.safetensors")
    source = file if form == "file" else file.parent
    with pytest.raises(NotStyleInject):
        pipe.load_styleinject_weights(source, convert=False)
    for convert in (True, str(base), base):
        report = pipe.load_styleinject_weights(source, convert=convert)
        assert len(report.notes) >= 1
        assert error(noise(pipe), noise(theirs)) < 1e-5


def test_what_is_ours_is_not_converted_and_no_pickle_is(theirs: Any, style: Path, pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(BaseMismatch):
        pipe.load_styleinject_weights(LORA, convert="sd15")
    assert pipe.load_styleinject_weights(STYLE).notes == ()
    assert pipe.load_styleinject_weights(style).notes == ()
    pickle = tmp_path / "lora.bin"
    torch.save(load_file(tmp_path / "lora.safetensors"), pickle)
    with pytest.raises(NotStyleInject.__mro__[1]):
        pipe.load_styleinject_weights(pickle)


def test_a_repository_without_weights_and_one_of_several_are_said(style: Path, client: LoopbackHub, pipe: Any) -> None:
    client.repo("user/words").commit({"README.md": "hi", "pytorch_lora_weights.bin": b"1"})
    with pytest.raises(MissingEntry, match=r"holds no safetensors file.*Pickles are never fetched"):
        pipe.load_styleinject_weights("user/words")
    client.repo("user/two").commit({"a.safetensors": style, "b.safetensors": style})
    with pytest.raises(UsageError, match="several adapters"):
        pipe.load_styleinject_weights("user/two")
    with pytest.raises(UsageError, match="a pickle can run any code"):
        pipe.load_styleinject_weights("user/words", weight_name="pytorch_lora_weights.bin")


def test_a_bar_is_drawn_while_something_is_fetched(
    style: Path, pipe: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    pipe.load_styleinject_weights(STYLE, force_download=True)
    assert "fetching" in capsys.readouterr().err
    pipe.load_styleinject_weights(STYLE)
    assert "fetching" not in capsys.readouterr().err


def test_the_keywords_show_no_token() -> None:
    assert "hf_secret" not in repr(Fetch(token="hf_secret"))
