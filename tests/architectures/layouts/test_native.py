"""Native names of the bases, against what diffusers' converters do to every row of checkpoints in those names.

Every row of a source is a number of its own, so that rows which are left out, doubled or out of place are seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from si_hub import architectures
from si_hub.architectures import Model
from si_hub.architectures.layouts import Names
from si_hub.architectures.namings import LAYOUTS


@dataclass(frozen=True)
class Case:
    """One naming of a base, and how diffusers reads it.

    Attributes:
        convert: function of diffusers' loader of single files.
        scales: how sources end whose weight is called ``scale``.
        left: modules that have no native name.
        besides: tensors that only the source has, which the converter asks for.
    """

    base: str
    layout: str
    convert: str
    scales: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    besides: tuple[str, ...] = ()


_BFL_SCALES = ("query_norm", "key_norm")
_KREA2_SCALES = ("prenorm", "postnorm", "qnorm", "knorm", "txtmlp.0", "last.norm")
#: Diffusers' table of six rows is one row there.
_KREA2_TABLES = tuple(f"transformer_blocks.{number}.scale_shift_table" for number in range(28))
_CHROMA_SCALES = (*_BFL_SCALES, *(f"distilled_guidance_layer.norms.{number}" for number in range(5)))
CASES = (
    Case("flux", "bfl", "convert_flux_transformer_checkpoint_to_diffusers", _BFL_SCALES),
    Case("chroma", "bfl", "convert_chroma_transformer_checkpoint_to_diffusers", _CHROMA_SCALES),
    Case("flux2-dev", "bfl2", "convert_flux2_transformer_checkpoint_to_diffusers", _BFL_SCALES),
    Case("flux2-klein-4b", "bfl2", "convert_flux2_transformer_checkpoint_to_diffusers", _BFL_SCALES),
    Case("flux2-klein-9b", "bfl2", "convert_flux2_transformer_checkpoint_to_diffusers", _BFL_SCALES),
    Case("hunyuan-video", "tencent", "convert_hunyuan_video_transformer_to_diffusers"),
    Case("auraflow", "fal", "convert_auraflow_transformer_checkpoint_to_diffusers"),
    Case(
        "sd3", "mmdit", "convert_sd3_transformer_checkpoint_to_diffusers", left=("pos_embed.pos_embed",),
        besides=("pos_embed",),
    ),
    Case(
        "sd35-medium", "mmdit", "convert_sd3_transformer_checkpoint_to_diffusers", left=("pos_embed.pos_embed",),
        besides=("pos_embed",),
    ),
    Case(
        "sd35-large", "mmdit", "convert_sd3_transformer_checkpoint_to_diffusers", left=("pos_embed.pos_embed",),
        besides=("pos_embed",),
    ),
    Case("z-image", "z-image", "convert_z_image_transformer_checkpoint_to_diffusers", besides=("norm_final.weight",)),
    Case("krea2", "krea2", "convert_krea2_transformer_checkpoint_to_diffusers", _KREA2_SCALES, _KREA2_TABLES),
    Case("minimax-h3", "minimax-h3", "convert_minimax_h3_transformer_checkpoint_to_diffusers"),
    Case("flux3-image-klein", "bfl3", "convert_flux3_transformer_checkpoint_to_diffusers", _BFL_SCALES),
    Case("qwen-image-2.1", "qwen-image-2.1-comfy", "convert_qwen_image21_transformer_checkpoint_to_diffusers"),
    Case("lumina2", "lumina2", "convert_lumina2_to_diffusers", besides=("norm_final.weight",)),
    Case("sana-1.6b", "sana", "convert_sana_transformer_to_diffusers", besides=("pos_embed", "y_embedder.y_embedding")),
    Case("sana-0.6b", "sana", "convert_sana_transformer_to_diffusers", besides=("pos_embed", "y_embedder.y_embedding")),
)  # fmt: skip


def written(model: Model, names: Names, scales: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint of one column in native names, and what the layout says it is in diffusers'."""
    import torch

    native: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    at = 0
    for source, parts in names.items():
        first = model.modules[parts[0].path]
        leaves = [("", "")]
        if first.kind != "parameter":
            leaves = [(".scale" if source.endswith(scales) else ".weight", ".weight")]
            leaves += [(".bias", ".bias")] if first.bias else []
        rows = sum(model.modules[part.path].shape[0] for part in parts)
        for leaf, theirs in leaves:
            native[source + leaf] = value = torch.arange(at, at + rows)[:, None]
            at += rows
            for part in parts:
                taken = [(0, rows)] if part.rows is None else part.rows
                assert part.path + theirs not in expected
                expected[part.path + theirs] = torch.cat([value[start:stop] for start, stop in taken])
    return native, expected


def parameters(model: Model) -> dict[str, int]:
    """Rows of every parameter of a model."""
    rows: dict[str, int] = {}
    for path, module in model.modules.items():
        rows[path if module.kind == "parameter" else f"{path}.weight"] = module.shape[0]
        if module.bias:
            rows[f"{path}.bias"] = module.shape[0]
    return rows


def assert_same_rows(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    import torch

    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name].reshape(-1, 1))] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.base}-{case.layout}")
def test_every_row_is_where_diffusers_puts_it(case: Case) -> None:
    import torch
    from diffusers.loaders import single_file_utils

    model = architectures.load(case.base).components["transformer"]
    native, ours = written(model, LAYOUTS[case.layout](model), case.scales)
    assert {name: len(value) for name, value in ours.items()} == {
        name: rows for name, rows in parameters(model).items() if name not in case.left
    }
    besides = {name: torch.zeros(1, 1, dtype=torch.int64) for name in case.besides}
    theirs = getattr(single_file_utils, case.convert)({**native, **besides}, config={})
    assert_same_rows(ours, {name: value for name, value in theirs.items() if name not in case.left})
