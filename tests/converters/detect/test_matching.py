"""The shortcut that spares most bases a full look finds what a full look at every base finds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from si_hub import architectures
from si_hub.converters import open_source
from si_hub.converters.detect.choosing import choose_base
from si_hub.converters.detect.grouping import Grouped, classify_modules, group
from si_hub.converters.detect.matching import Match, fit, fit_shipped
from si_hub.converters.families.contract import Family
from si_hub.errors import SiHubError

Entries = dict[str, tuple[str, tuple[int, ...]]]


@cache
def pool() -> list[tuple[str, tuple[int, ...]]]:
    """(stem, weight's shape) of linear modules of every shipped denoiser, a few of each."""
    found: list[tuple[str, tuple[int, ...]]] = [("lora_unet_no_such_module", (4, 4)), ("lora_te_nothing", (4, 4))]
    for name in architectures.names():
        component = next(iter(architectures.load(name).components.values()))
        linear = [(path, module) for path, module in component.modules.items() if module.kind == "linear"]
        found += [(f"lora_unet_{path.replace('.', '_')}", module.shape) for path, module in linear[::9]]
    return found


def outcome(
    source_path: Path, grouped: Grouped, families: dict[str, Family], matches: Callable[[], list[Match]]
) -> object:
    """What choosing among the matches comes to: the base and its places, or the error's line."""
    try:
        chosen = choose_base(open_source(source_path), grouped, families, matches(), given=False)
    except SiHubError as error:
        return type(error), str(error)
    return [(one.architecture.name, set(one.places), set(one.misfits), one.strangers) for one in chosen]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sampling_names_first_never_changes_the_outcome(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, write_zeros: Callable[..., Path]
) -> None:
    start = data.draw(st.integers(0, len(pool()) - 1))
    run = pool()[start : start + data.draw(st.integers(1, 60))]
    strays = data.draw(st.lists(st.sampled_from(pool()), max_size=2))
    entries: Entries = {}
    for stem, (out, in_, *_) in dict([*run, *strays]).items():
        width = in_ + (data.draw(st.integers(0, 30)) == 0)
        entries |= {f"{stem}.lora_down.weight": ("F16", (1, width)), f"{stem}.lora_up.weight": ("F16", (out, 1))}
    path = write_zeros(tmp_path_factory.getbasetemp() / "matching.safetensors", entries)
    grouped = group(open_source(path))
    families = classify_modules(open_source(path), grouped)
    candidates = [architectures.load(name) for name in architectures.names()]
    shortcut = outcome(path, grouped, families, lambda: fit_shipped(grouped, families))
    whole = outcome(path, grouped, families, lambda: [fit(grouped, families, candidate) for candidate in candidates])
    assert shortcut == whole
