"""A whole model under any name that its denoiser is written in is recognised as that base and no other."""

from __future__ import annotations

import pytest

from si_hub import architectures
from si_hub.architectures.bases import BASES, BY_NAME, Base
from si_hub.architectures.checkpoint import recognise
from si_hub.architectures.layouts import Layout, diffusers

CASES = [(base, layout) for base in BASES for layout in (*base.layouts, diffusers) if layout.whole]


@pytest.mark.parametrize(("base", "layout"), CASES, ids=lambda value: value.name)
def test_a_whole_model_is_of_its_own_base(base: Base, layout: Layout) -> None:
    attribute = next(iter(base.denoisers()))
    model = architectures.load(base.name).components[attribute]
    shapes = {}
    for name, parts in layout(model).items():
        held = [model.modules[part.path] for part in parts]
        rows = sum(module.shape[0] for module in held)
        shapes[name if held[0].kind == "parameter" else f"{name}.weight"] = (rows, *held[0].shape[1:])
        if held[0].bias:
            shapes[f"{name}.bias"] = (rows,)
    found = recognise(shapes, map(architectures.load, architectures.names()))
    assert found is not None
    # Several bases have one denoiser between them: the first is taken.
    assert BY_NAME[found.name].components[attribute].table == base.components[attribute].table
    assert found.components[attribute].modules == model.modules
