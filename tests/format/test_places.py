"""No path, folder or user's name of the machine that a file was made on stands in what a document names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel
from si_hub.cli import main
from si_hub.errors import DocumentError
from si_hub.format import writer
from si_hub.format.places import check_home, check_places
from si_hub.storage.header import read_safetensors
from tests.places import GOLDEN

PLACES = [
    "/home/me/base", "~/base", "~me", "..", "../base", "base/../other", "./base", "C:\\models\\base", "C:/models", "d:",
    "models\\base", "\\\\server\\share", "file:///home/me/base",
]  # fmt: skip


@pytest.fixture
def adapter() -> Adapter:
    return file_format.read(GOLDEN / "one_branch.safetensors")


@pytest.mark.parametrize("field", ["architecture", "repo_id"])
@pytest.mark.parametrize("text", [*PLACES, "home/me/base"])
def test_the_writer_refuses_a_base_model_that_is_a_path(
    adapter: Adapter, tmp_path: Path, field: str, text: str
) -> None:
    adapter.base_model = replace(adapter.base_model, **{field: text})
    with pytest.raises(
        DocumentError, match=rf"out\.safetensors: styleinject\.base_model\.{field}: names a place of one"
    ):
        file_format.write(adapter, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_is_no_repository(adapter: Adapter, tmp_path: Path) -> None:
    adapter.base_model = BaseModel("user/base")
    with pytest.raises(DocumentError, match=r"expected a name such as sdxl.*found user/base"):
        file_format.write(adapter, tmp_path / "out.safetensors")
    adapter.base_model = BaseModel("sd15", "user/base")
    file_format.write(adapter, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("provenance", "key"),
    [
        ({"source": {"name": "/home/me/lora.safetensors"}}, "source.name"),
        ({"sources": [{"name": "a.safetensors"}, {"name": "..\\b.safetensors"}]}, "sources.1.name"),
        ({"source": {"name": "a.safetensors", "repo_id": "/data/me"}}, "source.repo_id"),
    ],
)
def test_the_writer_refuses_a_source_that_is_a_path(
    adapter: Adapter, tmp_path: Path, provenance: dict[str, Any], key: str
) -> None:
    adapter.about["provenance"] = provenance
    with pytest.raises(DocumentError, match=rf"styleinject\.provenance\.{key}: names a place"):
        file_format.write(adapter, tmp_path / "out.safetensors")


@pytest.fixture
def leaking(adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as an earlier version wrote it."""
    adapter.base_model = BaseModel("/home/me/base")
    monkeypatch.setattr(writer, "check_places", lambda *_: None)
    return file_format.write(adapter, tmp_path / "old.safetensors").path


def test_a_reader_takes_what_an_earlier_version_wrote_and_validation_says_it(leaking: Path) -> None:
    assert file_format.read(leaking, verify=True).base_model.architecture == "/home/me/base"
    with pytest.raises(DocumentError, match="names a place of one machine"):
        file_format.validate(leaking)
    result = CliRunner().invoke(main, ["validate", str(leaking)])
    assert (result.exit_code, "names a place of one machine" in result.stderr) == (3, True)


def test_every_golden_file_names_no_place() -> None:
    for file in GOLDEN.glob("*.safetensors"):
        document = file_format.read_document(read_safetensors(file))
        check_places(document)
        check_home(document, {})


@pytest.mark.parametrize(
    ("document", "metadata", "key"),
    [
        ({"training": {"notes": ["from HOME/pictures"]}}, {}, "styleinject.training.notes.0"),
        ({"extensions": {"org.example": {"HOME/x": 1}}}, {}, "styleinject.extensions.org.example.HOME/x"),
        ({"title": "HOME"}, {}, "styleinject.title"),
        ({}, {"ss_output_dir": "HOME/out"}, "ss_output_dir"),
    ],
)
def test_the_home_folder_is_found_wherever_it_stands(
    document: dict[str, Any], metadata: dict[str, str], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(value: Any, home: str) -> Any:
        if isinstance(value, dict):
            return {at(name, home): at(inner, home) for name, inner in value.items()}
        return [at(inner, home) for inner in value] if isinstance(value, list) else str(value).replace("HOME", home)

    monkeypatch.setenv("HOME", "/srv/me")
    for home in ("/srv/me", "/home/karl", "/Users/karl", "C:\\Users\\karl"):
        with pytest.raises(DocumentError, match="holds the path of a home folder") as raised:
            check_home(at(document, home), at(metadata, home))
        assert (raised.value.key, raised.value.found) == (key.replace("HOME", home), home)
    for other in ("/srv/mean", "x/srv/me", "x/home/karl", "https://example.org/Users/karl"):
        check_home(at(document, other), at(metadata, other))
    monkeypatch.setenv("HOME", "/")
    check_home(at(document, "/"), at(metadata, "/"))
