"""The families as data: each claims its own modules, no two the same, and none claims a whole model."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from si_hub.architectures.bases import BASES, Base
from si_hub.architectures.layouts import Layout, diffusers
from si_hub.architectures.shipped import load_model
from si_hub.converters.families.contract import Family
from si_hub.converters.families.registry import FAMILIES, SUFFIXES, classify, nearest, plain_names, rejection

#: family → the slots of a real module of it.
TYPICAL: dict[str, str] = {
    "lora": "down up alpha", "lora-bias": "down up up_bias", "full": "diff diff_b", "norm": "w_norm b_norm",
    "locon-tucker": "down up mid alpha", "sparse": "down up alpha sparse_indices sparse_values sparse_size",
    "dora": "down up alpha magnitude", "loha": "hada_w1_a hada_w1_b hada_w2_a hada_w2_b alpha",
    "lokr": "lokr_w1 lokr_w2_a lokr_w2_b alpha", "glora": "a1 a2 b1 b2 alpha", "ia3-lycoris": "ia3_weight on_input",
    "ia3-peft": "ia3", "oft": "oft_blocks alpha", "oft-peft": "oft_r", "boft-peft": "boft_r boft_s",
    "embedding-lora": "embedding_down embedding_up", "set": "set_weight diff_b",
    "reshaped": "reshape down up set_weight", "adalora-peft": "down up singular", "ln-tuning": "ln_weight ln_bias",
    "trainable-tokens": "tokens", "styleinject-peft": "si_down si_up si_router si_router_bias",
    "routed-lora": "down ups_0 ups_1 alpha router router_bias",
    "hra-peft": "hra_u", "hira-peft": "hira_a hira_b",
    "fourierft-peft": "fourierft_spectrum", "waveft-peft": "waveft_spectrum", "c3a-peft": "c3a_kernel",
    "gralora-peft": "gralora_a gralora_b", "delora-peft": "delora_a delora_b delora_lambda delora_w_norm",
    "miss-peft": "miss_block", "shira-peft": "shira_weight shira_indices",
    "randlora-peft": "randlora_lambda randlora_gamma randlora_a randlora_b",
    "vera-peft": "vera_lambda_b vera_lambda_d vera_a vera_b",
    "pvera-peft": "pvera_lambda_b pvera_lambda_d pvera_a pvera_b",
    "vblora-peft": "vblora_logits_a vblora_logits_b vblora_vector_bank",
    "glora-peft": "glora_a_xd glora_a_xu glora_c_x",
    "road-peft": "road_theta road_alpha", "beft-peft": "beft_bias", "deft-peft": "deft_p deft_r",
    "peanut-peft": "peanut_a peanut_b", "supertuning-peft": "supertuning_values supertuning_indices",
    "osf-peft": "osf_svd_params_u_low osf_svd_params_s_low osf_svd_params_v_low",
    "lily-peft": "lily_a lily_b lily_router", "frod-peft": "frod_lambda_l frod_lambda_s_values",
    "unilora-peft": "unilora_theta_d", "tinylora-peft": "tinylora_a tinylora_b tinylora_p",
    "adamss-peft": "adamss_a adamss_b", "psoft-peft": "psoft_r psoft_r_vector_a",
}  # fmt: skip


def test_every_family_has_a_typical_module() -> None:
    assert set(TYPICAL) == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", TYPICAL)
def test_one_family_claims_a_typical_module(name: str) -> None:
    slots = TYPICAL[name].split()
    assert [family.name for family in FAMILIES if family.when.objection(slots) is None] == [name]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_subset_that_a_family_may_have_is_claimed_by_it_alone(family: Family) -> None:
    optional = sorted(family.when.may | family.when.has_any)[:7]
    subsets = chain.from_iterable(combinations(optional, size) for size in range(len(optional) + 1))
    for subset in subsets:
        slots = {*family.when.has_all, *subset}
        if family.when.objection(slots) is None:
            claims = [other.name for other in FAMILIES if other.when.objection(slots) is None]
            assert claims == [family.name], slots


def test_conditions_name_known_slots_only() -> None:
    known = {suffix.slot for suffix in SUFFIXES.values()}
    for family in FAMILIES:
        assert family.when.has_all | family.when.has_any | family.when.may <= known


def test_every_family_is_converted_or_says_why_not() -> None:
    for family in FAMILIES:
        assert family.is_converted != bool(family.reason), family.name
        assert family.lower is None or family.is_converted, family.name


@pytest.mark.parametrize(
    ("slots", "objection"),
    [
        ("down alpha", "lacks up"),
        ("down up magnitude_of_something", "has magnitude_of_something besides"),
        ("hada_w1_a hada_w1_b", "lacks hada_w2_a, hada_w2_b"),
    ],
)
def test_an_unclaimed_module_names_its_nearest_family_and_the_objection(slots: str, objection: str) -> None:
    assert classify(slots.split()) is None
    assert nearest(slots.split())[1] == objection


def test_names_of_a_whole_model_are_plain_and_those_of_an_adapter_are_not() -> None:
    names = ["double_blocks.0.img_attn.norm.key_norm.scale", "conv_in.weight", "conv_in.lora_down.weight", "x.alpha"]
    assert plain_names(names) == names[:2]
    found = rejection(names[:2])
    assert found is not None
    assert (found[0].name, found[1]) == ("a full model", names[0])


@pytest.mark.parametrize(
    "names",
    [
        ["lora_unet_mid_block.lora_down.weight", "lora_unet_mid_block.lora_up.weight"],
        ["down_blocks.0.attn.to_q.lora_A.weight", "down_blocks.0.attn.to_q.lora_B.weight"],
        ["text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "text_model.encoder.layers.0.mlp.fc1.lora_B.weight"],
        ["diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight"],
        ["encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight"],
        ["unet.conv_in.diff", "lora_te_x.alpha"],
    ],
)
def test_an_adapter_is_never_taken_for_a_whole_model(names: list[str]) -> None:
    assert rejection(names) is None


WHOLE_MODELS = [(base, layout) for base in BASES for layout in (*base.layouts, diffusers) if layout.whole]


@pytest.mark.parametrize(("base", "layout"), WHOLE_MODELS, ids=lambda value: value.name)
def test_a_whole_model_is_one_under_its_own_names_even_where_they_end_as_an_adapters_do(
    base: Base, layout: Layout
) -> None:
    """As Krea 2's ``mlp.down.weight`` does."""
    model = load_model(next(iter(base.denoisers().values())).table)
    for prefix in ("", "diffusion_model.", "model.diffusion_model."):
        names = [
            f"{prefix}{name}" if model.modules[parts[0].path].kind == "parameter" else f"{prefix}{name}.weight"
            for name, parts in layout(model).items()
        ]
        found = rejection(names)
        assert found is not None
        assert found[0].is_model
