"""Textual inversions that ride along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from si_hub import format as file_format
from si_hub.adapter import Component, Layer
from si_hub.errors import BaseMismatch, UsageError
from si_hub.storage.tensors import Tensor

Make = Callable[..., Any]


@pytest.fixture
def inversion() -> Callable[..., Component]:
    def build(token: str = "<ink>", vectors: int = 1, width: int = 24, seed: int = 0) -> Component:
        values = torch.randn(vectors, width, generator=torch.Generator().manual_seed(seed))
        return Component("CLIPTextModel", embeddings={token: Tensor.from_torch(values)})

    return build


def table(pipe: Any, component: str = "text_encoder") -> torch.Tensor:
    return getattr(pipe, component).get_input_embeddings().weight.detach()  # type: ignore[no-any-return]


def tokens(pipe: Any, text: str) -> list[int]:
    return pipe.tokenizer(text).input_ids  # type: ignore[no-any-return]


def test_its_tokens_mean_its_vectors_and_deleting_restores_tokenizer_and_table(
    sd: Make, adapter: Make, inversion: Make, latents: Make, state: Make, same: Make
) -> None:
    pipe = sd()
    before, ids, size = state(pipe), tokens(pipe, "a <ink> cat"), pipe.text_encoder.config.vocab_size
    picture = latents(pipe, "a <ink> cat")
    part = inversion(vectors=3)
    report = pipe.load_styleinject_weights(adapter(text_encoder=part), "a")
    assert report.matched == ("text_encoder.embedding.<ink>",)
    assert pipe.get_list_styleinject_adapters() == {"text_encoder": ["a"]}
    assert pipe.get_active_styleinject_adapters() == ["a"]
    prompt = pipe.maybe_convert_prompt("a <ink> cat", pipe.tokenizer)
    rows = [index for index in tokens(pipe, prompt) if index >= size]
    assert torch.equal(table(pipe)[rows], part.embeddings["<ink>"].torch())
    assert not torch.equal(latents(pipe, "a <ink> cat"), picture)
    pipe.delete_styleinject_adapters("a")
    assert same(state(pipe), before)
    assert tokens(pipe, "a <ink> cat") == ids
    assert pipe.text_encoder.config.vocab_size == size
    assert len(pipe.tokenizer) == size
    assert torch.equal(latents(pipe, "a <ink> cat"), picture)


def test_a_frozen_text_encoder_stays_frozen(sd: Make, adapter: Make, inversion: Make) -> None:
    pipe = sd()
    pipe.text_encoder.requires_grad_(False)
    pipe.load_styleinject_weights(adapter(text_encoder=inversion()))
    pipe.unload_styleinject_weights()
    assert not any(value.requires_grad for value in pipe.text_encoder.parameters())
    assert not any(module.training for module in pipe.text_encoder.modules())


def test_two_adapters_tokens_come_and_go_in_any_order(sd: Make, adapter: Make, inversion: Make) -> None:
    pipe = sd()
    first, second = inversion("<ink>", 2), inversion("<neon>", 2, seed=1)
    pipe.load_styleinject_weights(adapter(text_encoder=first), "a")
    pipe.load_styleinject_weights(adapter(text_encoder=second), "b")
    pipe.delete_styleinject_adapters("a")
    rows = pipe.tokenizer.convert_tokens_to_ids(["<neon>", "<neon>_1"])
    assert torch.equal(table(pipe)[rows], second.embeddings["<neon>"].torch())
    assert "<ink>" not in pipe.tokenizer.get_vocab()
    pipe.load_styleinject_weights(adapter(text_encoder=first), "a")
    pipe.unload_styleinject_weights()
    assert len(pipe.tokenizer) == table(pipe).shape[0] == 82


def test_the_second_text_encoder_s_tokens_go_to_the_second_tokenizer(
    sdxl: Make, adapter: Make, inversion: Make
) -> None:
    pipe = sdxl()
    parts = {"text_encoder": inversion(seed=1), "text_encoder_2": inversion(seed=2)}
    pipe.load_styleinject_weights(adapter(**parts))
    for name, tokenizer in (("text_encoder", pipe.tokenizer), ("text_encoder_2", pipe.tokenizer_2)):
        row = tokenizer.convert_tokens_to_ids("<ink>")
        assert torch.equal(table(pipe, name)[row][None], parts[name].embeddings["<ink>"].torch())


@pytest.mark.parametrize(
    ("token", "vectors", "width", "words"),
    [
        ("<ink>", 1, 23, r"text_encoder\.embedding\.<ink>: the embedding has another width.*expected 24, found 23"),
        ("c", 1, 24, r"embedding\.c: the tokenizer already has this token"),
    ],
)
def test_what_cannot_be_added_is_an_error_and_nothing_is(
    token: str, vectors: int, width: int, words: str, sd: Make, lora: Make, adapter: Make, inversion: Make,
    state: Make, same: Make,
) -> None:  # fmt: skip
    pipe = sd()
    before = state(pipe)
    part = lora(pipe.text_encoder, ("q_proj",))
    part.embeddings = inversion("<good>").embeddings | inversion(token, vectors, width).embeddings
    with pytest.raises(UsageError, match=words):
        pipe.load_styleinject_weights(adapter(unet=lora(pipe.unet), text_encoder=part))
    assert same(state(pipe), before)
    assert "<good>" not in pipe.tokenizer.get_vocab()
    assert pipe.get_list_styleinject_adapters() == {}


def test_a_token_that_another_adapter_brought_is_an_error(sd: Make, adapter: Make, inversion: Make) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(text_encoder=inversion(vectors=2)), "a")
    with pytest.raises(UsageError, match="found <ink>, <ink>_1"):
        pipe.load_styleinject_weights(adapter(text_encoder=inversion()), "b")
    with pytest.raises(UsageError, match="found <ink>, <ink>_1"):
        pipe.load_styleinject_weights(adapter(text_encoder=inversion("<ink>_1")), "b")


def test_where_no_textual_inversion_can_be_loaded_the_report_names_it(
    sd: Make, lora: Make, adapter: Make, inversion: Make
) -> None:
    pipe = sd()
    part = lora(pipe.unet)
    part.embeddings = inversion().embeddings
    with pytest.raises(BaseMismatch, match=r"unet\.embedding\.<ink>: StableDiffusionPipeline cannot load textual"):
        pipe.load_styleinject_weights(adapter(unet=part))
    report = pipe.load_styleinject_weights(adapter(unet=part), "a", strict=False)
    assert len(report.unexpected) == 1
    pipe.unload_styleinject_weights()
    assert isinstance(pipe.unet, nn.Module)


def test_vectors_are_saved_as_they_are_now(sd: Make, adapter: Make, inversion: Make, tmp_path: Path) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(text_encoder=inversion(vectors=2)), "a")
    row = pipe.tokenizer.convert_tokens_to_ids("<ink>_1")
    with torch.no_grad():
        table(pipe)[row] = 0.5
    saved = file_format.read(pipe.save_styleinject_weights(tmp_path).path)
    values = saved.components["text_encoder"].embeddings["<ink>"].torch()
    assert torch.equal(values[0], inversion(vectors=2).embeddings["<ink>"].torch()[0])
    assert torch.equal(values[1], torch.full((24,), 0.5))


def test_unloading_leaves_the_embedding_module_and_the_sizes_as_they_were(
    sd: Make, adapter: Make, inversion: Make
) -> None:
    pipe = sd()
    encoder = pipe.text_encoder
    module, parameter = encoder.get_input_embeddings(), encoder.get_input_embeddings().weight
    attributes, size = set(encoder.__dict__), module.num_embeddings
    encoder.config.vocab_size = 500
    pipe.load_styleinject_weights(adapter(text_encoder=inversion(vectors=2)), "a")
    assert encoder.config.vocab_size == size + 2
    pipe.load_styleinject_weights(adapter(text_encoder=inversion("<neon>")), "b")
    pipe.delete_styleinject_adapters("a")
    assert encoder.config.vocab_size == size + 1
    pipe.unload_styleinject_weights()
    assert encoder.get_input_embeddings() is module
    assert module.weight is parameter
    assert (module.num_embeddings, encoder.config.vocab_size, set(encoder.__dict__)) == (size, 500, attributes)


def test_an_adapter_of_the_embedding_survives_tokens_that_come_and_go(
    sd: Make, adapter: Make, inversion: Make, words: Make
) -> None:
    pipe = sd()
    gain = Layer({"gain": Tensor.from_torch(torch.full((24,), 1.5))})
    part = Component("CLIPTextModel", {"text_model.embeddings.token_embedding": gain})
    pipe.load_styleinject_weights(adapter(text_encoder=part), "gain")
    changed = words(pipe)
    pipe.load_styleinject_weights(adapter(text_encoder=inversion()), "ink")
    pipe.delete_styleinject_adapters("ink")
    pipe.set_styleinject_adapters("gain")
    assert torch.equal(words(pipe), changed)


@pytest.mark.parametrize(("first", "second"), [("<a>_1", "<a>"), ("<a>", "<a>_1"), ("<a>", "<a>_2")])
def test_a_token_that_reads_as_another_s_further_vector_is_an_error_of_ours(
    first: str, second: str, sd: Make, adapter: Make, inversion: Make
) -> None:
    pipe = sd()
    pipe.load_styleinject_weights(adapter(text_encoder=inversion(first)), "a")
    with pytest.raises(UsageError, match=f"found {first}"):
        pipe.load_styleinject_weights(adapter(text_encoder=inversion(second)), "b")
    assert second not in pipe.tokenizer.get_vocab()
