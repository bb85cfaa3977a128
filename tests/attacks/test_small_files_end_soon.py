"""Small files that took minutes or gigabytes: each command ends within a second or so, by its own clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from si_hub.architectures import load
from tests.sparse import Entry, write_zeros
from tests.systems import limit_processor

#: Seconds of one processor that a command may take here, its start among them; then the system ends it.
SECONDS = 4
UNET = load("sd15").components["unet"].modules
MODULES = [(path, module.shape) for path, module in UNET.items() if module.kind == "linear"]
SLOW = ".*" * 12 + "Z"
DOCUMENT = {
    "format_version": "1.0", "base_model": {"architecture": "sd15"}, "tensors_sha256": "0" * 64,
    "components": {"unet": {"alpha": None, "transform": "add", "pool": "mean"}},
}  # fmt: skip


def run(*arguments: str | Path) -> tuple[int, str]:
    """A command under the limit: how it ended, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "si_hub", *map(str, arguments)], capture_output=True, encoding="utf-8",
        **limit_processor(SECONDS),
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def peft_names(prefix: str) -> dict[str, Entry]:
    names: dict[str, Entry] = {}
    for path, shape in MODULES:
        names[f"{prefix}{path}.lora_A.weight"] = ("F16", (2, shape[1]))
        names[f"{prefix}{path}.lora_B.weight"] = ("F16", (shape[0], 2))
    return names


def beside(folder: Path, config: dict[str, object], names: dict[str, Entry]) -> Path:
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config}), encoding="utf-8"
    )
    write_zeros(folder / "adapter_model.safetensors", names)
    return folder


def in_the_header(folder: Path) -> Path:
    config = json.dumps({"unet.r": 2, "unet.lora_alpha": 2, "unet.rank_pattern": {SLOW: 3}})
    return write_zeros(folder / "x.safetensors", peft_names("unet."), {"lora_adapter_metadata": config})


def many_patterns(folder: Path) -> Path:
    names: dict[str, Entry] = {}
    for index in range(4000):
        names |= {f"base_model.model.blocks.{index}.to_q.lora_{side}.weight": ("F16", (1, 1)) for side in "AB"}
    patterns = {f"{'x' * 1700}.layers.{index}.never": 3 for index in range(1971)}
    return beside(folder, {"r": 1, "alpha_pattern": patterns}, names)


@pytest.mark.parametrize("command", ["inspect", "convert"])
@pytest.mark.parametrize(
    "build",
    [
        lambda folder: beside(folder, {"alpha_pattern": {SLOW: 3}}, peft_names("base_model.model.")),
        in_the_header,
        many_patterns,
    ],
    ids=["beside the file", "in the header", "many patterns"],
)
def test_no_pattern_of_a_configuration_holds_a_command_up(
    build: Callable[[Path], Path], command: str, tmp_path: Path
) -> None:
    output: list[str | Path] = ["-o", tmp_path / "out.safetensors"] if command == "convert" else []
    code, said = run(command, build(tmp_path), *output)
    assert code in (0, 5), said


def test_branch_names_of_mixed_types_are_told_apart_at_once(tmp_path: Path) -> None:
    names: dict[str, Entry] = {"unet.a.down.weight": ("F16", (2, 4)), "unet.a.up.weight": ("F16", (4, 2))}
    # Texts and numbers have no order: each was held against each other one.
    branches = [f"b{index}" if index % 2 else index for index in range(7000)]
    document = json.dumps({**DOCUMENT, "branches": branches}, separators=(",", ":"))
    code, said = run("validate", write_zeros(tmp_path / "x.safetensors", names, {"styleinject": document}))
    assert code == 3
    assert "is not of type 'string'" in said


def test_the_most_patterns_of_a_document_are_matched_within_the_time(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    patterns = sorted({f"**.{a}{b}{c}" for a in letters for b in letters for c in letters})[:5500]
    names: dict[str, Entry] = {}
    for index in range(160):
        # Many short segments: what a ** goes through.
        stem = f"unet.{'b.' * 200}{index}.q"
        names |= {f"{stem}.down.weight": ("F16", (1, 1)), f"{stem}.up.weight": ("F16", (1, 1))}
    unet = {"alpha": None, "transform": "add", "pool": "mean", "exceptions": {"transform": {"adain": patterns}}}
    document = json.dumps({**DOCUMENT, "components": {"unet": unet}}, separators=(",", ":"))
    code, said = run("validate", write_zeros(tmp_path / "x.safetensors", names, {"styleinject": document}))
    assert code == 3
    assert "a pattern that matches no layer" in said


@pytest.mark.parametrize("pairs", [16_400, pytest.param(95_000, marks=pytest.mark.slow)])
def test_more_tensors_than_any_adapter_has_are_refused_by_their_number(pairs: int, tmp_path: Path) -> None:
    stems = [f"unet.b{index}.q.lora_" for index in range(pairs)]
    names: dict[str, Entry] = {f"{stem}{side}.weight": ("F16", (1, 1)) for stem in stems for side in "AB"}
    code, said = run("convert", write_zeros(tmp_path / "x.safetensors", names))
    assert code == 3, said
    assert "more tensors than any adapter" in said or "more values than any real" in said


def test_a_header_beyond_any_real_ones_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((86_000_000).to_bytes(8, "little") + b"{")
    os.truncate(path, 87_000_000)
    code, said = run("inspect", path)
    assert code == 3
    assert "header size beyond any real file's" in said


def test_thousands_of_vectors_are_no_textual_inversion(tmp_path: Path) -> None:
    names: dict[str, Entry] = {"text_encoder.embedding.x": ("F16", (4000, 768))}
    document = {**DOCUMENT, "components": {"text_encoder": {"alpha": None, "transform": "add", "pool": "mean"}}}
    path = write_zeros(tmp_path / "x.safetensors", names, {"styleinject": json.dumps(document)})
    code, said = run("inspect", path)
    assert code == 3
    assert "more vectors than any textual inversions have" in said
