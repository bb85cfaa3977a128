"""Files as adapters: ours with and without their base model, and foreign ones."""

from __future__ import annotations

from pathlib import Path

import pytest

import si_hub
from si_hub.editing.opening import open_adapter, open_alone
from si_hub.errors import BaseMismatch, UsageError
from tests.commands import write_kohya
from tests.miniature import BASE, KOHYA_LORA


def test_a_file_of_ours_for_a_base_of_the_users_own_is_read_alone_and_opened_with_its_folder(tmp_path: Path) -> None:
    ours = si_hub.convert(KOHYA_LORA, tmp_path / "ours.safetensors", base=BASE).path
    alone = open_alone(ours, None)
    assert sum(len(component.layers) for component in alone.components.values()) == 66
    adapter, architecture, weights = open_adapter(ours, BASE)
    assert adapter == alone
    assert architecture.components.keys() >= {"unet", "text_encoder"}
    assert weights is not None
    with pytest.raises(UsageError, match=r"is for a base model that is none of those known here.*base=FOLDER"):
        open_adapter(ours, None)
    with pytest.raises(BaseMismatch, match="is for another base model"):
        open_adapter(ours, "sdxl")


def test_a_foreign_file_is_converted_and_a_known_base_needs_no_name(tmp_path: Path) -> None:
    file = write_kohya(tmp_path / "lora.safetensors")
    ours = si_hub.convert(file, tmp_path / "ours.safetensors").path
    for one in (file, ours):
        adapter, architecture, weights = open_adapter(one, None)
        assert (architecture.name, weights) == ("sd15", None)
        assert open_alone(one, None).components.keys() == adapter.components.keys() == {"unet", "text_encoder"}
