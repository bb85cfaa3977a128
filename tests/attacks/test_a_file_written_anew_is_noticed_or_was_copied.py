"""A file that is rewritten under whoever read it changes no picture and ends no process: copied, or noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from si_hub import format as file_format
from si_hub.conversion import convert
from si_hub.distill.pair.checkpoint import read_checkpoint
from si_hub.errors import FileAccessError, TruncatedFile
from si_hub.storage.header import read_safetensors
from si_hub.storage.sources import Comparison
from si_hub.storage.tensors import Span, Tensor
from si_hub.storage.write import write_safetensors
from tests.miniature import BASE, MINIATURE
from tests.places import GOLDEN, ROOT


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def fill_with_zeros(file: Path) -> None:
    """The same length, in place, as ``cp`` and trainers write."""
    with file.open("r+b") as out:
        out.seek(file.stat().st_size // 2)
        out.write(bytes(file.stat().st_size - out.tell()))


def replace_whole(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(file.stat().st_size))
    os.replace(other, file)


def copy_beside(tensor: Tensor) -> None:
    [piece] = tensor.pieces
    assert isinstance(piece, Span)
    write_safetensors(piece.path.with_name("copy"), {"a": tensor}, {})


CHANGES: list[Callable[[Path], None]] = [cut, fill_with_zeros, replace_whole]
READS: dict[str, Callable[[Tensor], object]] = {
    "bytes": lambda tensor: tensor.tobytes(),
    "numpy": lambda tensor: tensor.numpy(),
    "torch": lambda tensor: tensor.torch(),
    "a comparison": lambda tensor: Comparison().same(tensor, Tensor.from_torch(torch.zeros(1 << 20))),
    "a copy": lambda tensor: copy_beside(tensor),
    "its last rows": lambda tensor: tensor.rows(1 << 19, 1 << 20).torch(),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", READS)
def test_numbers_of_a_file_that_is_another_are_not_given(
    read: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    write_safetensors(tmp_path / "a", {"a": Tensor.from_torch(torch.ones(1 << 20))}, {})
    os.utime(tmp_path / "a", ns=(1, 1))
    tensor = read_safetensors(tmp_path / "a").tensors["a"]
    assert read == "a copy" or READS[read](tensor) is not None
    change(tmp_path / "a")
    with pytest.raises(TruncatedFile if change is cut else FileAccessError, match="after its header was read"):
        READS[read](tensor)


@pytest.mark.parametrize("change", CHANGES)
def test_numbers_that_were_given_stay(change: Callable[[Path], None], tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a", {"a": Tensor.from_torch(torch.ones(1 << 20))}, {})
    values = read_safetensors(tmp_path / "a").tensors["a"].torch()
    change(tmp_path / "a")
    assert bool((values == 1).all())


RUNNING = """
import sys
from pathlib import Path
import torch
import si_hub
from tests.attacks.test_a_file_written_anew_is_noticed_or_was_copied import CHANGES
from tests.miniature import BASE
from diffusers import DiffusionPipeline
si_hub.enable()
pipe = DiffusionPipeline.from_pretrained(BASE, local_files_only=True)
pipe.set_progress_bar_config(disable=True)
def draw():
    return pipe("a house", num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="np").images
for file, change in zip(sys.argv[1:], CHANGES, strict=True):
    pipe.load_styleinject_weights(file)
    before = draw()
    change(Path(file))
    assert (draw() == before).all(), change.__name__
    pipe.unload_styleinject_weights()
    print(change.__name__)
"""


def test_a_running_pipeline_draws_on(tmp_path: Path) -> None:
    """In a process of its own: what is mapped and cut ends a process."""
    convert(MINIATURE / "peers" / "kohya_lora.safetensors", tmp_path / "0", base=BASE)
    files = [tmp_path / str(number) for number in range(len(CHANGES))]
    for file in files[1:]:
        shutil.copy(files[0], file)
    done = subprocess.run(
        [sys.executable, "-c", RUNNING, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cut", "fill_with_zeros", "replace_whole"]


@pytest.mark.parametrize("change", CHANGES)
def test_an_adapter_that_was_read_is_not_saved_with_other_numbers(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    source = tmp_path / "a.safetensors"
    shutil.copy(next(iter(sorted(GOLDEN.glob("*.safetensors")))), source)
    adapter = file_format.read(source)
    change(source)
    with pytest.raises((FileAccessError, TruncatedFile), match="after its header was read"):
        file_format.write(adapter, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_torch_that_is_another_is_not_read_on(change: Callable[[Path], None], tmp_path: Path) -> None:
    torch.save({"state_dict": {"a.weight": torch.ones(1 << 20)}}, tmp_path / "a.ckpt")
    os.utime(tmp_path / "a.ckpt", ns=(1, 1))
    weights, _ = read_checkpoint(tmp_path / "a.ckpt")
    values = weights["a.weight"].torch()
    change(tmp_path / "a.ckpt")
    assert bool((values == 1).all())
    with pytest.raises(TruncatedFile if change is cut else FileAccessError, match="after its header was read"):
        weights["a.weight"].torch()
