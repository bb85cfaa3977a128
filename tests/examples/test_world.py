"""What is shipped: the manifest names every weight file with its hash, small enough, and the base draws from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from examples.miniature import (
    autoencoder,
    base,
    data,
    families,
    judges,
    peers,
    report,
    styles,
    text,
    training,
    world,
)
from examples.miniature.checkpoints import HERE
from examples.miniature.drawing import draw_prompts, unseen_scenes
from examples.miniature.judges import chance, judge, load_judges
from examples.miniature.peers import LOADERS
from examples.miniature.report import load, render_scenes
from examples.miniature.scenes import STYLES
from examples.miniature.training import Recipe


@pytest.fixture(scope="module")
def manifest() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_the_manifest_lists_every_weight_file_with_its_hash_and_size(manifest: dict[str, dict[str, object]]) -> None:
    files = {file.relative_to(HERE).as_posix(): file for file in HERE.rglob("*.safetensors")}
    assert sorted(files) == sorted(manifest)
    for name, file in files.items():
        assert manifest[name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest(), name
        assert manifest[name]["bytes"] == file.stat().st_size


def test_all_weights_together_are_at_most_60_megabytes(manifest: dict[str, dict[str, object]]) -> None:
    assert sum(int(str(entry["bytes"])) for entry in manifest.values()) <= 60_000_000


def test_every_command_of_the_manifest_names_a_step(manifest: dict[str, dict[str, object]]) -> None:
    for name, entry in manifest.items():
        step = str(entry["command"]).rpartition(" ")[2]
        assert world.result_of(step, HERE, HERE / "work").as_posix() in (HERE / name).as_posix()


def test_no_config_names_a_path_of_the_machine_that_built_it() -> None:
    configs = list(HERE.rglob("*.json"))
    assert configs
    assert [
        file
        for file in configs
        if "_name_or_path" in file.read_text(encoding="utf-8") or '"/' in file.read_text(encoding="utf-8")
    ] == []


def test_the_older_tokenizer_files_say_the_same_as_the_new_one() -> None:
    folder = HERE / "base" / "tokenizer"
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert json.loads((folder / "vocab.json").read_text(encoding="utf-8")) == whole["vocab"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in whole["merges"]]
    assert (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:] == merges


def test_a_world_over_the_limit_gets_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judges.safetensors").write_bytes(b"12345")
    monkeypatch.setattr(world, "LIMIT", 4)
    with pytest.raises(ValueError, match="5 bytes"):
        world.write_manifest(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("style", STYLES)
def test_the_shipped_judges_see_what_the_renderer_drew(style: str) -> None:
    wanted = unseen_scenes(100)
    verdict = judge(load_judges(HERE / "judges.safetensors"), render_scenes(wanted, style), wanted)
    assert verdict.alignment >= 0.98
    assert verdict.styles[style] >= 0.98


def test_the_shipped_base_draws_what_unseen_prompts_say() -> None:
    wanted = unseen_scenes(50)
    pictures = draw_prompts(load(HERE), [scene.prompt() for scene in wanted])
    verdict = judge(load_judges(HERE / "judges.safetensors"), pictures, wanted)
    assert verdict.alignment >= 0.85
    assert verdict.styles["plain"] >= 0.9


def test_the_other_families_bases_draw_too() -> None:
    rows = report.family_rows(HERE, load_judges(HERE / "judges.safetensors"), unseen_scenes(30))
    assert [(row.name, row.holds()) for row in rows] == [("sdxl", True), ("dit", True)]


@pytest.mark.slow
def test_every_bar_of_the_report_holds() -> None:
    seeing, wanted = load_judges(HERE / "judges.safetensors"), unseen_scenes(200)
    rows = [*report.base_rows(HERE, seeing, wanted), *report.checkpoint_rows(HERE, seeing, wanted)]
    assert [row.name for row in rows if not row.holds()] == []
    assert {row.style for row in rows} >= set(STYLES)
    shuffled = rows[2].verdict.alignment
    assert shuffled == pytest.approx(chance(wanted), abs=0.05)


@pytest.mark.slow
def test_every_peer_moves_the_style_score() -> None:
    seeing, wanted = load_judges(HERE / "judges.safetensors"), unseen_scenes(40)
    base, *peers = report.peer_rows(HERE, seeing, wanted)
    assert [row.name for row in peers] == list(LOADERS)
    assert all((row.style_score() or 0.0) > (base.style_score() or 0.0) + 0.5 for row in peers)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole build, on a few pictures and two steps of every training."""

    def two_steps(recipe: Recipe, *rest: Any) -> None:
        training.train(replace(recipe, steps=2, batch=4, warmup=1), *rest)

    monkeypatch.setattr(data, "PER_STYLE", 100)
    monkeypatch.setattr(data, "PLAIN", 40)
    monkeypatch.setattr(world, "hush", lambda: None)  # it changes the whole process
    for module in (autoencoder, base, families, judges, peers, styles, text):
        monkeypatch.setattr(module, "train", two_steps)


def content(file: Path) -> Any:
    """A file's bytes; of safetensors the tensors' bytes and the metadata, which the library writes in any order."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with safe_open(file, "pt") as opened:
        return opened.metadata(), {name: value.numpy().tobytes() for name, value in load_file(file).items()}


@pytest.mark.slow
def test_the_same_seeds_build_the_same_weights(
    hurried: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    built: list[dict[str, Any]] = []
    for name in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["world", "--work", str(tmp_path / name)])
        world.main()
        out = tmp_path / name / "world"
        built.append({file.relative_to(out).as_posix(): content(file) for file in out.rglob("*") if file.is_file()})
    one, two = built
    assert {file.relative_to(HERE).as_posix() for file in HERE.rglob("*.safetensors")} <= set(one)
    assert one.keys() == two.keys()
    assert [file for file in one if one[file] != two[file]] == []
