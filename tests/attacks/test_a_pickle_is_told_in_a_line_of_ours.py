"""A PyTorch file of more than tensors: torch's own pages, with escape sequences and advice to load it all the same, are
neither printed nor in a traceback; nothing in the file runs."""

from __future__ import annotations

import os
import pickle
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from si_hub.cli import main
from si_hub.converters import open_source
from si_hub.distill import open_model
from si_hub.errors import SiHubError
from si_hub.training.loop import load_whole
from tests.miniature import BASE, INK


class Bomb:
    """Makes a folder when it is unpickled by anything that runs code."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


def write_pickles(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that torch opens in part, at most, and the object that each is to be refused by."""
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    files = {
        "numpy.ckpt": ({"state_dict": weights, "callbacks": {"best": np.float64(1.0)}}, "multiarray.scalar"),
        "path.ckpt": ({"state_dict": weights, "where": Path("/tmp")}, "PosixPath"),
        "bomb.ckpt": ({"state_dict": weights, "x": Bomb(folder / "ran")}, "mkdir"),
    }
    found = {}
    for name, (content, culprit) in files.items():
        torch.save(content, folder / name)
        found[name] = (folder / name, culprit)
    (folder / "plain.pt").write_bytes(pickle.dumps(Bomb(folder / "ran")))
    (folder / "noise.ckpt").write_bytes(b"\x80\x02\x1b[2J" * 99)
    return found | {name: (folder / name, "UnpicklingError") for name in ("plain.pt", "noise.ckpt")}


@pytest.mark.parametrize("name", ["numpy.ckpt", "path.ckpt", "bomb.ckpt", "plain.pt", "noise.ckpt"])
def test_every_command_names_the_object_and_nothing_else_of_torch_s(name: str, tmp_path: Path) -> None:
    file, culprit = write_pickles(tmp_path)[name]
    for command in (["distill", BASE, file, "--method", "svd"], ["convert", file]):
        done = CliRunner().invoke(main, [str(word) for word in command])
        assert done.exit_code in (3, 4)
        [line] = done.stderr.splitlines()
        assert line.isprintable()
        assert len(line) < 300 + len(str(file))
        assert culprit in line
        assert not [word for word in ("weights_only", "pytorch.org", "trust", "x1b", "allowlist") if word in line]
    assert not (tmp_path / "ran").exists()


def test_no_traceback_shows_them_either(tmp_path: Path) -> None:
    for file, _ in write_pickles(tmp_path).values():
        for opening in (lambda path: open_model(path, base=None), open_source, load_whole):
            with pytest.raises(SiHubError) as caught:
                opening(file)
            shown = "".join(traceback.format_exception(caught.value))
            assert "pytorch.org" not in shown
            assert "\x1b" not in shown
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_tensors_alone_opens_as_before(tmp_path: Path) -> None:
    torch.save({"state_dict": load_file(INK), "epoch": 3}, tmp_path / "ink.ckpt")
    assert open_model(tmp_path / "ink.ckpt", base=open_model(BASE)).components["unet"]
