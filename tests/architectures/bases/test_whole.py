"""A whole model under any name that its denoiser is written in is recognised as that base and no other."""

from __future__ import annotations

import pytest

from si_hub import architectures
from si_hub.architectures.bases import BASES, Base
from si_hub.architectures.checkpoint import recognise
from si_hub.architectures.layouts import Layout, diffusers

CASES = [(base, layout) for base in BASES for layout in (*base.layouts, diffusers) if layout.whole]


@pytest.mark.parametrize(("base", "layout"), CASES, ids=lambda value: value.name)
def test_a_whole_model_is_of_its_own_base(base: Base, layout: Layout) -> None:
    attribute = next(iter(base.denoisers()))
    model = architectures.load(base.name).components[attribute]
    shapes = {}
    for name, parts in layout(model).items():
        first = model.modules[parts[0].path]
        leaf = "" if first.kind == "parameter" else ".weight"
        shapes[name + leaf] = (sum(model.modules[part.path].shape[0] for part in parts), *first.shape[1:])
    found = recognise(shapes, map(architectures.load, architectures.names()))
    assert found is not None
    assert found.name == base.name
    assert found.components[attribute].modules == model.modules
