"""Pictures from equal noise: those that diffusers draws, of prompts that nothing was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from si_hub import format as file_format
from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.distill import Distilled, Pair, distill, match, open_model
from si_hub.distill.drawing import SEEDS, rows
from si_hub.distill.request import SurveyOptions
from si_hub.distill.running import prompts
from si_hub.errors import UsageError
from si_hub.storage.tensors import Tensor
from tests.miniature import BASE, INK, NEON, PROMPTS, open_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return open_pair(INK)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    """Rank 64 is nearly all of the difference."""
    output = tmp_path_factory.mktemp("made") / "ink.safetensors"
    return distill(BASE, INK, output=output, method="svd", rank=64, embeddings=True)


def drawn(pipe: Any, prompt: str, seed: int) -> np.ndarray[Any, Any]:
    pipe.set_progress_bar_config(disable=True)
    found = pipe(prompt, num_inference_steps=20, generator=torch.Generator().manual_seed(seed)).images[0]
    return np.asarray(found, dtype=float)


def test_pictures_are_those_that_diffusers_draws_from_the_same_noise(made: Distilled, pair: Pair) -> None:
    [row] = rows([pair], made.path, 1, file=PROMPTS, seed=3)
    assert row.prompt in PROMPTS.read_text(encoding="utf-8").splitlines()
    assert row.seed == SEEDS + 3
    assert list(row.images) == ["teacher", "adapter", "base"]
    teacher = StableDiffusionPipeline.from_single_file(
        str(INK), config=str(BASE), torch_dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    base = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    found = {title: np.asarray(picture, dtype=float) for title, picture in row.images.items()}
    assert np.abs(found["teacher"] - drawn(teacher, row.prompt, row.seed)).max() <= 1
    assert np.abs(found["base"] - drawn(base, row.prompt, row.seed)).max() <= 1
    assert np.abs(found["adapter"] - found["teacher"]).mean() < 0.2 * np.abs(found["base"] - found["teacher"]).mean()


def test_tuned_models_whose_files_are_called_alike_have_columns_of_their_own(tmp_path: Path) -> None:
    start, pairs = open_model(BASE), []
    for source in (INK, NEON):
        file = tmp_path / source.stem / "model.safetensors"
        file.parent.mkdir()
        file.symlink_to(source)
        pairs.append(match(start, open_model(file, base=start)))
    leaves = {"down.weight": torch.ones(2, 8, 3, 3), "up.weight": torch.zeros(48, 1), "router.bias": torch.zeros(2)}
    layer = Layer({name: Tensor.from_torch(value) for name, value in leaves.items()})
    components = {"unet": Component("UNet2DConditionModel", {"conv_in": layer})}
    adapter = Adapter(BaseModel("StableDiffusionPipeline"), components, ("pen", "night"))
    file_format.write(adapter, tmp_path / "both.safetensors")
    [row] = rows(pairs, tmp_path / "both.safetensors", 1, file=PROMPTS)
    assert list(row.images) == ["teacher pen", "adapter pen", "teacher night", "adapter night", "base"]
    pen, night = (np.asarray(row.images[f"teacher {name}"], dtype=float) for name in ("pen", "night"))
    assert np.abs(pen - night).mean() > 1
    assert np.array_equal(np.asarray(row.images["adapter pen"]), np.asarray(row.images["base"]))


def test_pictures_show_prompts_that_nothing_was_made_with(made: Distilled, pair: Pair) -> None:
    shown = [
        row.prompt
        for row in rows([pair], made.path, 1, seed=5, survey=SurveyOptions(6), options={"height": 16, "width": 16})
    ]
    used, measured, _ = prompts.choose_prompts(None, CLIPTokenizer.from_pretrained(BASE / "tokenizer"), 6, 1, 5)
    assert shown == measured
    assert not set(shown) & set(used)


def test_a_call_that_the_pipeline_refuses_is_one_line(made: Distilled, pair: Pair) -> None:
    with pytest.raises(UsageError, match=r"refuses to be run like this.*divisible by 8"):
        rows([pair], made.path, 1, file=PROMPTS, options={"height": 33, "width": 33})
