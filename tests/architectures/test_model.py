"""Modules from shapes, and the patterns that the tables are written in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from si_hub.architectures.model import Module, dump_modules, fold, load_modules, modules_from_shapes, unfold

segments = st.one_of(st.sampled_from(["layers", "attn", "to_q", "to_out"]), st.integers(0, 30).map(str))
paths = st.lists(segments, min_size=1, max_size=5).map(".".join)


@given(st.sets(paths, max_size=40))
def test_folded_paths_unfold_to_the_same_paths_each_once(chosen: set[str]) -> None:
    unfolded = [path for pattern in fold(sorted(chosen)) for path in unfold(pattern)]
    assert sorted(unfolded) == sorted(chosen)


def test_paths_that_differ_in_numbers_only_become_one_pattern() -> None:
    grid = [f"blocks.{block}.layers.{layer}.proj" for block in range(3) for layer in (0, 2)]
    assert fold(grid) == ["blocks.{0-2}.layers.{0,2}.proj"]
    assert fold(["a.1.b", "a.2.c"]) == ["a.1.b", "a.2.c"]


modules = st.builds(
    Module, st.sampled_from(["linear", "conv", "norm", "embedding", "parameter"]),
    st.lists(st.integers(1, 999), max_size=4).map(tuple), st.booleans(),
)  # fmt: skip


@given(st.dictionaries(paths, modules, max_size=20))
def test_a_dumped_table_loads_as_the_same_modules(table: dict[str, Module]) -> None:
    assert load_modules(dump_modules(table)) == table


def test_kinds_follow_from_names_and_shapes() -> None:
    found = modules_from_shapes({
        "proj.weight": (4, 3), "proj.bias": (4,), "conv.weight": (4, 3, 3, 3), "norm.weight": (4,),
        "norm.bias": (4,), "embeddings.token_embedding.weight": (9, 4), "embeddings.position_ids": (1, 9),
        "scale_shift_table": (6, 4), "lone.bias": (4,),
    })  # fmt: skip
    assert found == {
        "proj": Module("linear", (4, 3), True),
        "conv": Module("conv", (4, 3, 3, 3), False),
        "norm": Module("norm", (4,), True),
        "embeddings.token_embedding": Module("embedding", (9, 4), False),
        "scale_shift_table": Module("parameter", (6, 4)),
        "lone.bias": Module("parameter", (4,)),
    }
