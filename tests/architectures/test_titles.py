"""What whole models are called by the names of their tensors."""

from __future__ import annotations

import pytest

from si_hub.architectures.bases import BASES, Base
from si_hub.architectures.namings import LAYOUTS
from si_hub.architectures.shipped import load_model
from si_hub.architectures.titles import title_model

CASES = [
    (base, layout)
    for base in BASES for layout in LAYOUTS.values()
    if layout.whole and layout(load_model(next(iter(base.denoisers().values())).table))
]  # fmt: skip


@pytest.mark.parametrize(("base", "layout"), CASES, ids=lambda value: value.name)
def test_a_base_is_called_by_its_own_title_or_its_beginning(base: Base, layout: object) -> None:
    model = load_model(next(iter(base.denoisers().values())).table)
    assert callable(layout)
    title = title_model(f"{name}.weight" for name in layout(model))
    assert title is not None
    assert any(base.title.startswith(part) for part in title.split(" or ")), title


def test_names_of_no_model_have_no_title() -> None:
    assert title_model([]) is None
    assert title_model(["stages.0.mixer.weight", "head.weight"]) is None
    # One name in five is another's.
    flux = [
        "double_blocks.0.img_attn.qkv.weight",
        "txt_in.weight",
        "vector_in.in_layer.weight",
        "time_in.in_layer.bias",
    ]
    assert title_model(flux) == "FLUX.1"
    assert title_model([*flux, "stages.0.mixer.weight"]) is None


def test_names_that_too_many_models_have_say_nothing() -> None:
    assert title_model(["transformer_blocks.0.attn.to_q.weight"]) is None
