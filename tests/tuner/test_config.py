from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from peft.utils.peft_types import PeftType

from si_hub.errors import DocumentError, UsageError
from si_hub.tuner import StyleInjectConfig, StyleInjectModel
from si_hub.tuner.config import extend_peft_type
from si_hub.tuner.model import register


def test_peft_knows_the_type_by_value_name_and_iteration() -> None:
    member = PeftType("STYLEINJECT")
    assert member is PeftType["STYLEINJECT"] is extend_peft_type()
    assert member == "STYLEINJECT"
    assert list(PeftType).count(member) == 1
    assert pickle.loads(pickle.dumps(member)) is member


def test_registering_again_changes_nothing() -> None:
    before = dict(PEFT_TYPE_TO_PREFIX_MAPPING)
    register()
    assert before == PEFT_TYPE_TO_PREFIX_MAPPING
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType("STYLEINJECT")] is StyleInjectConfig
    assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType("STYLEINJECT")] == StyleInjectModel.prefix


def test_a_configuration_comes_back_from_its_file(tmp_path: Path) -> None:
    config = StyleInjectConfig(
        r=4, alpha=2.0, num_branches=2, branches=["a", "b"], transform="adain", router="fixed", target_modules=["x"],
        rank_pattern={"x": 8}, alpha_pattern={"x": 1.0}, train_bias=True,
    )  # fmt: skip
    config.save_pretrained(str(tmp_path))
    for loader in (StyleInjectConfig, PeftConfig):
        assert loader.from_pretrained(str(tmp_path)) == config


@pytest.mark.parametrize("loader", [StyleInjectConfig, PeftConfig])
def test_an_unknown_field_is_an_error_that_names_it(tmp_path: Path, loader: Any) -> None:
    StyleInjectConfig(target_modules=["x"]).save_pretrained(str(tmp_path))
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"strength_map": 3}), encoding="utf-8")
    with pytest.raises(DocumentError, match=r"strength_map: unknown field in a StyleInject configuration"):
        loader.from_pretrained(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transform": "blend"}, r"transform: unknown value \(expected add \| variance"),
        ({"pool": "max"}, "pool: unknown value"),
        ({"router": "random"}, "router: unknown value"),
        ({"r": 0}, "r: has to be 1 or more"),
        ({"num_branches": 0}, "num_branches: has to be 1 or more"),
        ({"num_branches": 2, "branches": ["a"]}, "branches: needs one name per branch"),
        ({"num_branches": 2, "branches": ["a", "a"]}, "branches: needs one name per branch"),
    ],
)
def test_impossible_values_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StyleInjectConfig(**fields)


@pytest.mark.parametrize(
    ("field", "words"),
    [("lora_alpha", "alpha= is what"), ("bias", "train_bias=True"), ("use_dora", "no magnitudes"), ("rrr", "Upgrade")],
)
def test_a_keyword_that_there_is_none_of_is_a_type_error_and_loras_have_hints(field: str, words: str) -> None:
    with pytest.raises(TypeError, match=f"^{field}: unknown field.*{words}"):
        StyleInjectConfig(target_modules=["a"], **{field: 1})  # type: ignore[arg-type]


def test_an_unknown_field_of_a_file_is_never_dropped(tmp_path: Path) -> None:
    StyleInjectConfig(target_modules=["a"]).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "curvature": 2}), encoding="utf-8")
    with pytest.raises(DocumentError, match="curvature: unknown field"):
        PeftConfig.from_pretrained(tmp_path)
