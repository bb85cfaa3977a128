"""`si-hub edit`: another header before the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors import safe_open

import si_hub
from si_hub import format
from si_hub.cli import main
from si_hub.errors import ChecksumError, FileAccessError, FormatError, UsageError
from si_hub.inspection import validate_all
from si_hub.storage.header import read_safetensors
from tests.commands import write_kohya
from tests.miniature import BASE, KOHYA_LORA
from tests.places import ROOT

PICTURE = ROOT / "docs" / "stack.png"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return si_hub.convert(KOHYA_LORA, tmp_path / "ours.safetensors", base=BASE).path


def data_of(file: Path) -> bytes:
    """The data section, by the eight bytes that say where it begins."""
    raw = file.read_bytes()
    return raw[8 + int.from_bytes(raw[:8], "little") :]


def test_fields_of_ours_change_and_nothing_else_does(ours: Path) -> None:
    before, data = format.read_document(read_safetensors(ours)), data_of(ours)
    identity = format.identity(before, read_safetensors(ours))
    words = ["--title", "Ink", "--author", "me", "--license", "cc-by-4.0", "--trigger-words", "ink, drawing"]
    more = ["--tag", "style", "--tag", "pen", "--preview-prompt", "a ship, ink", "--preview", str(PICTURE)]
    ended = CliRunner().invoke(main, ["edit", str(ours), *words, *more, "--json"])
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout)["changes"]["trigger_words"]["now"] == ["ink", "drawing"]
    file = read_safetensors(ours)
    after = format.read_document(file)
    said = {
        "title": "Ink", "author": "me", "license": "cc-by-4.0", "trigger_words": ["ink", "drawing"],
        "tags": ["style", "pen"], "preview_prompts": ["a ship, ink"],
    }  # fmt: skip
    assert after == {**before, **said}
    assert data_of(ours) == data
    assert format.identity(after, file) == identity
    assert file.metadata["modelspec.title"] == "Ink"
    assert base64.b64decode(file.metadata["modelspec.thumbnail"].partition(",")[2]) == PICTURE.read_bytes()
    assert [one.path for one in validate_all([ours])] == [ours]
    si_hub.edit(ours, title="", tags=[], preview="")
    after = format.read_document(read_safetensors(ours))
    assert after.keys() & {"title", "tags", "author"} == {"author"}
    assert "modelspec.thumbnail" not in read_safetensors(ours).metadata


def test_a_foreign_file_keeps_its_data_its_own_order_and_its_hashes(tmp_path: Path) -> None:
    file = write_kohya(tmp_path / "lora.safetensors")
    data, metadata = data_of(file), read_safetensors(file).metadata
    with safe_open(file, "np") as opened:
        tensors = {name: opened.get_tensor(name).tobytes() for name in opened.keys()}  # noqa: SIM118
    found = si_hub.edit(file, tmp_path / "new.safetensors", title="Ink", trigger_words=["ink", "drawing"])
    assert hashlib.sha256(data_of(found.path)).digest() == hashlib.sha256(data).digest()
    assert data_of(file) == data
    with safe_open(found.path, "np") as opened:
        assert {name: opened.get_tensor(name).tobytes() for name in opened.keys()} == tensors  # noqa: SIM118
        assert opened.metadata() == {
            **metadata, "modelspec.title": "Ink", "modelspec.trigger_phrase": "ink, drawing",
            "modelspec.sai_model_spec": "1.0.1",
        }  # fmt: skip


def test_a_dry_run_and_what_is_so_already_write_nothing(ours: Path) -> None:
    raw = ours.read_bytes()
    found = si_hub.edit(ours, title="Ink", dry_run=True)
    assert (found.changes, found.written) == ({"title": ("kohya_lora", "Ink")}, False)
    assert not si_hub.edit(ours, author="").written
    assert ours.read_bytes() == raw


def test_what_cannot_be_edited_is_told(ours: Path, tmp_path: Path) -> None:
    foreign = write_kohya(tmp_path / "lora.safetensors")
    with pytest.raises(UsageError, match="say what to change"):
        si_hub.edit(ours)
    with pytest.raises(FileAccessError, match="already exists"):
        si_hub.edit(ours, foreign, title="x")
    with pytest.raises(UsageError, match="only a StyleInject file says prompts"):
        si_hub.edit(foreign, preview_prompts=["a ship"])
    with pytest.raises(FormatError, match="is no picture that programs show"):
        si_hub.edit(ours, preview=foreign)
    large = tmp_path / "large.png"
    large.write_bytes(PICTURE.read_bytes()[:8] + bytes(1 << 20))
    with pytest.raises(FormatError, match="is too large for a header"):
        si_hub.edit(ours, preview=large)


def test_a_damaged_file_is_not_given_the_hash_of_its_damage(ours: Path) -> None:
    raw = bytearray(ours.read_bytes())
    raw[-1] ^= 1
    ours.write_bytes(raw)
    with pytest.raises(ChecksumError):
        si_hub.edit(ours, title="Ink")
    assert ours.read_bytes() == raw
