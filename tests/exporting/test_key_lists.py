"""Adapters of full size as LyCORIS, PEFT and diffusers name their tensors: back to every name, on to each other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from si_hub import architectures, converters
from si_hub.exporting.assembling import ExportJob, spell_files
from si_hub.exporting.formats import FILE_FORMATS
from si_hub.exporting.original import spell_back
from tests import sparse
from tests.keylists.folding import read_list
from tests.keylists.make import FOLDER as KEYLISTS

_DTYPES = {"float32": "F32", "int64": "I64"}
Entries = dict[str, tuple[str, tuple[int, ...]]]


def write_listed(listed: str, folder: Path) -> tuple[str, Path, Entries]:
    """The base model, and a file of zeros with the tensors of a list."""
    about, tensors = read_list(KEYLISTS / f"{listed}.json")
    entries = {name: (_DTYPES[dtype], shape) for name, (dtype, shape) in tensors.items()}
    return about["base"], sparse.write_zeros(folder / "peer.safetensors", entries), entries


@pytest.mark.parametrize(
    "listed",
    ["lycoris_locon_sd15", "lycoris_locon_sd21", "lycoris_locon_sdxl", "lycoris_dylora_sd15", "lycoris_lokr_sd15",
     "lycoris_lokr_full_matrix_sd15", "lycoris_full_norm_sd15", "diffusers_lora_sd15", "diffusers_lora_sdxl",
     "peft_lora_sd15", "peft_lokr_sd15", "peft_ia3_sd15"],
)  # fmt: skip
def test_every_tensor_has_its_name_and_shape_again(listed: str, tmp_path: Path) -> None:
    base, file, entries = write_listed(listed, tmp_path)
    found = converters.convert_source(file, base=architectures.load(base))
    back = {
        name: tensor for held in spell_back(found.adapter, found.base).values() for name, tensor in held.tensors.items()
    }
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in back.items()} == entries


@pytest.mark.parametrize(
    ("listed", "to"),
    [("lycoris_locon_sd15", "kohya"), ("lycoris_locon_sd21", "kohya"), ("lycoris_lokr_sd15", "kohya"),
     ("lycoris_full_norm_sd15", "kohya"), ("peft_lora_sd15", "peft")],
)  # fmt: skip
def test_names_of_a_format_are_those_of_its_own_programs(listed: str, to: str, tmp_path: Path) -> None:
    base, file, entries = write_listed(listed, tmp_path)
    found = converters.convert_source(file, base=architectures.load(base))
    job = ExportJob(found.adapter, found.base, None, FILE_FORMATS[to], file)
    (written,), _ = spell_files(job, tmp_path / "out")
    # LyCORIS names what it is given, and transformers 5.6 took a word off CLIP's modules that all trainers' files have.
    assert {name: tensor.shape for name, tensor in written.tensors.items()} == {
        name.replace("lora_te_encoder_", "lora_te_text_model_encoder_"): shape for name, (_, shape) in entries.items()
    }
