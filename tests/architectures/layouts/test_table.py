"""Layouts written as tables of patterns."""

from __future__ import annotations

from si_hub.architectures import Model, Module
from si_hub.architectures.layouts import Part
from si_hub.architectures.layouts.table import from_table, from_words


def linear(rows: int, columns: int = 4) -> Module:
    return Module("linear", (rows, columns))


MODEL = Model("DiTModel", {
    "blocks.0.attn.to_q": linear(4), "blocks.0.attn.to_k": linear(2), "blocks.11.attn.to_q": linear(4),
    "blocks.11.attn.to_k": linear(2), "refiner.0.layers.3.proj.0": linear(4), "refiner.1.layers.2.proj.0": linear(4),
    "out": linear(8), "table": Module("parameter", (6, 4)),
})  # fmt: skip


def test_a_number_of_the_source_is_the_same_in_the_base() -> None:
    layout = from_table("x", {"b.{}.q": "blocks.{}.attn.to_q", "r.{}.l.{}.p": "refiner.{}.layers.{}.proj.0"}, ("DiT",))
    assert layout(MODEL) == {
        "b.0.q": (Part("blocks.0.attn.to_q"),), "b.11.q": (Part("blocks.11.attn.to_q"),),
        "r.0.l.3.p": (Part("refiner.0.layers.3.proj.0"),), "r.1.l.2.p": (Part("refiner.1.layers.2.proj.0"),),
    }  # fmt: skip


def test_a_list_is_one_matrix_with_the_rows_of_each() -> None:
    names = from_table("x", {"b.{}.qk": ["blocks.{}.attn.to_q", "blocks.{}.attn.to_k"]}, ("DiT",))(MODEL)
    assert names["b.11.qk"] == (Part("blocks.11.attn.to_q", ((0, 4),)), Part("blocks.11.attn.to_k", ((4, 6),)))


def test_a_tilde_swaps_the_halves_of_a_final_modulation() -> None:
    assert from_table("x", {"last": "~out"}, ("DiT",))(MODEL) == {"last": (Part("out", ((4, 8), (0, 4))),)}


def test_a_caret_swaps_the_halves_of_a_gated_layer_of_any_size() -> None:
    names = from_table("x", {"b.{}.q": "^blocks.{}.attn.to_q", "last": "~blocks.0.attn.to_q"}, ("DiT",))(MODEL)
    assert names["b.11.q"] == (Part("blocks.11.attn.to_q", ((2, 4), (0, 2))),)
    assert names["last"] == (Part("blocks.0.attn.to_q"),)


def test_a_tuple_is_whichever_of_them_the_model_has() -> None:
    layout = from_table("x", {"b.{}.q": ("blocks.{}.attn.to_q", "refiner.{}.layers.2.proj.0")}, ("DiT",))
    assert layout(MODEL) == {
        "b.0.q": (Part("blocks.0.attn.to_q"),), "b.11.q": (Part("blocks.11.attn.to_q"),),
        "b.1.q": (Part("refiner.1.layers.2.proj.0"),),
    }  # fmt: skip


def test_other_words_stand_for_whole_dotted_parts() -> None:
    names = from_words("x", {"attn.to_q": "q", "out": "last", "proj": "p"}, ("DiT",))(MODEL)
    assert {part.path for parts in names.values() for part in parts} == set(MODEL.modules)
    assert names["last"] == (Part("out"),)
    assert names["blocks.0.q"] == (Part("blocks.0.attn.to_q"),)
    assert names["refiner.0.layers.3.p.0"] == (Part("refiner.0.layers.3.proj.0"),)


def test_bare_parameters_have_names_too_and_missing_modules_have_none() -> None:
    assert from_table("x", {"t": "table", "u": "nowhere"}, ("DiT",))(MODEL) == {"t": (Part("table"),)}


def test_a_layout_is_for_models_whose_class_begins_as_it_says() -> None:
    layout = from_table("x", {"last": "out"}, ("Flux", "SD3"))
    assert layout(MODEL) == {}
    assert layout(Model("SD3Transformer2DModel", MODEL.modules)) == {"last": (Part("out"),)}
