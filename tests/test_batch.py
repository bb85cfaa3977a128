"""Folders, patterns and lists: each adapter for itself, done once, and a table at the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from si_hub.batch import convert_all, exit_code_of, find_sources, inspect_all, is_many
from si_hub.cli import main
from si_hub.errors import FileAccessError, MissingFile, UsageError
from si_hub.storage.header import read_safetensors
from tests.converters.adapters import pair

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """A folder: an adapter, one in a subfolder, a PEFT folder, a broken file, a VAE, a pickle and one of ours."""
    folder = tmp_path / "loras"
    (folder / "sub").mkdir(parents=True)
    lora = tmp_path / "lora.safetensors"
    save_file(pair(STEM, 320, 768, alpha=2.0), lora)
    for name in ("a.safetensors", "sub/b.safetensors"):
        (folder / name).write_bytes(lora.read_bytes())
    (folder / "peft").mkdir()
    (folder / "peft" / "adapter_model.safetensors").write_bytes(lora.read_bytes())
    (folder / "peft" / "notes.safetensors").write_bytes(lora.read_bytes())
    (folder / "broken.safetensors").write_bytes(lora.read_bytes()[:100])
    (folder / "style.styleinject.safetensors").write_bytes(b"ours")
    (folder / "old.pt").write_bytes(b"PK")
    lora.unlink()
    return folder


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout


def test_what_is_one_source_and_what_are_many(loras: Path) -> None:
    assert is_many([loras])
    assert is_many([loras / "a.safetensors", loras / "sub"])
    assert is_many([loras / "*.safetensors"])
    assert not is_many([loras / "a.safetensors"])
    assert not is_many([loras / "peft"])
    assert not is_many([loras / "sub"])
    assert not is_many([Path("user/lora@v1")])


def test_sources_are_found_once_and_never_pickles_or_what_is_ours(loras: Path) -> None:
    found = find_sources([loras, loras / "a.safetensors", loras / "**" / "*.safetensors"])
    names = [find.path.relative_to(loras).as_posix() for find in found]
    # The pattern names files by itself, those of an adapter's folder too.
    assert sorted(names) == [
        "a.safetensors", "broken.safetensors", "peft", "peft/adapter_model.safetensors", "peft/notes.safetensors",
        "sub/b.safetensors",
    ]  # fmt: skip
    with pytest.raises(MissingFile, match="no adapter there"):
        find_sources([loras / "*.nothing"])


def test_a_folder_is_converted_whole_in_spite_of_a_broken_file(loras: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text = run("convert", loras, "-o", out, "--base", "sd15")
    assert code == 3
    lines = text.splitlines()
    assert lines[-1] == "4 sources: 3 converted, 1 failed"
    assert [line.split()[0] for line in lines[:-1]] == ["converted", "failed", "converted", "converted"]
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert made == ["a.styleinject.safetensors", "peft.styleinject.safetensors", "sub/b.styleinject.safetensors"]
    assert all("styleinject" in read_safetensors(out / name).metadata for name in made)


def test_what_is_done_is_left_and_what_changed_since_is_not_overwritten(loras: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (loras / "broken.safetensors").unlink()
    assert run("convert", loras, "-o", out, "--base", "sd15")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    code, text = run("convert", loras / "a.safetensors", loras / "sub", "-o", out, "--base", "sd15")
    assert (code, text.splitlines()[-1]) == (0, "2 sources: 1 converted, 1 done")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (out / "a.styleinject.safetensors").write_bytes((out / "sub" / "b.styleinject.safetensors").read_bytes()[:-8])
    code, text = run("convert", loras, "-o", out, "--base", "sd15")
    assert code == 8
    assert "already exists" in text
    assert run("convert", loras, "-o", out, "--base", "sd15", "--force")[0] == 0


def test_what_is_done_is_not_what_other_options_ask_for(loras: Path, tmp_path: Path) -> None:
    out, lora = tmp_path / "out", [loras / "a.safetensors"]
    assert [item.status for item in convert_all(lora, out, base="sd15")] == ["converted"]
    assert [item.status for item in convert_all(lora, out, base="sd15")] == ["done"]
    for options in ({"rank": 1}, {"check": True}):
        [item] = convert_all(lora, out, base="sd15", **options)
        assert item.error is not None
        assert "already exists" in item.error.problem


def test_a_size_that_one_file_cannot_have_keeps_no_other_from_it(loras: Path, tmp_path: Path) -> None:
    items = list(convert_all([loras], tmp_path / "out", base="sd15", size="1kB"))
    assert [item.status for item in items] == ["failed"] * 4
    with pytest.raises(UsageError, match="no base model is called"):
        next(convert_all([loras], tmp_path / "out", base="nonsense"))


def test_a_link_to_nothing_hides_no_other_file_of_a_folder(loras: Path) -> None:
    (loras / "dangling.safetensors").symlink_to(loras / "nowhere")
    kinds = {one.path.name: one.kind for one in inspect_all([loras])}
    assert kinds["dangling.safetensors"] == "unreadable"
    assert kinds["a.safetensors"] == "adapter"


def test_json_is_a_line_each_and_says_every_error(loras: Path, tmp_path: Path) -> None:
    code, text = run("convert", loras, "-o", tmp_path / "out", "--base", "sd15", "--json")
    items = [json.loads(line) for line in text.splitlines()]
    assert code == 3
    assert [item["status"] for item in items] == ["converted", "failed", "converted", "converted"]
    assert items[0]["exact"] is True
    assert items[1]["exit_code"] == 3
    assert items[1]["file"].endswith("broken.safetensors")


def test_two_sources_never_share_an_output(loras: Path, tmp_path: Path) -> None:
    (loras / "sub" / "a.safetensors").write_bytes((loras / "a.safetensors").read_bytes())
    files = [loras / "a.safetensors", loras / "sub" / "a.safetensors"]
    first, second = convert_all(files, tmp_path / "out", base="sd15")
    assert (first.status, second.status) == ("converted", "failed")
    assert isinstance(second.error, FileAccessError)
    assert "same output" in second.error.problem


def test_what_is_no_adapter_is_skipped_in_a_folder_and_an_error_where_it_is_named(loras: Path, tmp_path: Path) -> None:
    (loras / "broken.safetensors").unlink()
    model = loras / "model.safetensors"
    save_file({"model.diffusion_model.out.2.weight": np.zeros(4, np.float16)}, model)
    items = {item.source.name: item for item in convert_all([loras], tmp_path / "out", base="sd15")}
    assert items["model.safetensors"].status == "skipped"
    assert run("convert", loras, "-o", tmp_path / "out", "--base", "sd15")[0] == 0
    [named, _] = convert_all([model, loras / "a.safetensors"], tmp_path / "more", base="sd15")
    assert named.status == "failed"


def test_an_output_that_is_a_file_is_refused_before_anything(loras: Path) -> None:
    with pytest.raises(FileAccessError, match="several adapters want a folder"):
        next(convert_all([loras], loras / "a.safetensors"))


def test_several_files_are_looked_at_with_a_table(loras: Path) -> None:
    code, text = run("inspect", loras / "a.safetensors", loras / "broken.safetensors")
    assert code == 3
    lines = text.splitlines()
    assert lines[-1] == "2 files: 1 adapter, 1 unreadable"
    assert lines[-3].split()[0] == "adapter"
    code, text = run("inspect", loras / "a.safetensors", loras / "sub" / "b.safetensors", "--json")
    assert code == 0
    assert [json.loads(line)["kind"] for line in text.splitlines()] == ["adapter", "adapter"]


def test_a_pattern_that_means_nothing_is_an_error(loras: Path) -> None:
    with pytest.raises(MissingFile):
        list(inspect_all([loras / "nothing*"]))


@pytest.mark.parametrize(("codes", "expected"), [([], 0), ([3], 3), ([3, 3], 3), ([3, 4], 1)])
def test_the_exit_code_is_what_the_errors_have_in_common(codes: list[int], expected: int) -> None:
    assert exit_code_of(codes) == expected
