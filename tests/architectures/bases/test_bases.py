"""Every shipped base model says all there is to say of it, and nothing else of the package names one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest
from click.testing import CliRunner

import si_hub
from si_hub import architectures
from si_hub.architectures.bases import BASES, BY_NAME, Base, find_base, find_begun
from si_hub.architectures.folder import COMPONENT
from si_hub.architectures.namings import LAYOUTS, WHOLE
from si_hub.cli import main

PACKAGE = Path(si_hub.__file__).parent
ROOM, LAYOUT_ROOM = PACKAGE / "architectures" / "bases", PACKAGE / "architectures" / "layouts"

every_base = pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)


@every_base
def test_a_base_says_what_it_is(base: Base) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", base.name)
    assert base.title
    assert base.title != base.name
    assert base.denoisers()
    assert base.hints
    assert base.repositories
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", repository) for repository in base.repositories)
    assert all(alias == alias.lower() for alias in base.aliases)
    assert set(base.prefixes.values()) <= set(base.components)
    assert all(text.endswith(("_", ".")) for text in base.prefixes)


@every_base
def test_the_components_of_a_base_are_those_of_its_pipeline(base: Base) -> None:
    assert all(COMPONENT.fullmatch(name) for name in base.components)
    loaded = architectures.load(base.name)
    assert {name: model.class_name for name, model in loaded.components.items()} == {
        name: part.class_name for name, part in base.components.items()
    }


@every_base
def test_what_a_base_says_of_its_modules_is_true_of_them(base: Base) -> None:
    models = [architectures.load(base.name).components[name] for name in base.denoisers()]
    paths = {path for model in models for path in model.modules}
    assert set(base.inputs) <= paths
    assert all(any(path.startswith(start) for path in paths) for start in base.optional)
    assert all(layout(model) for layout in base.layouts for model in models)


def test_no_name_means_two_bases() -> None:
    for one, other in combinations(BASES, 2):
        assert not {one.name, *one.aliases} & {other.name, *other.aliases}


def test_a_base_is_found_by_every_name_of_it_in_any_case() -> None:
    for base in BASES:
        assert all(find_base(name.upper()) is base for name in (base.name, *base.aliases))
    assert BY_NAME.keys() == set(architectures.names())
    assert find_base("sdxxl") is None


#: What people call base models at prompts, in forums and in file names.
TYPED = {
    "sd15": ["sd1", "SD1.5", "SD 1.5", "sd_1.5", "stable-diffusion-v1-5"],
    "sd21": ["sd2", "SD2.1", "SD 2.1", "stable-diffusion-2-1"],
    "sdxl": ["SDXL 1.0", "Pony", "Illustrious", "NoobAI", "illustrious_xl"],
    "auraflow": ["Pony V7"],
    "sd3": ["sd3-medium"],
    "sd35-large": ["sd3.5-large", "SD 3.5 Large"],
    "flux": [
        "flux1",
        "flux.1",
        "flux1-dev",
        "flux-dev",
        "FLUX.1-dev",
        "flux-schnell",
        "flux1-schnell",
        "FLUX.1 Kontext",
    ],
    "flux2-dev": ["flux2", "FLUX.2-dev"],
    "flux2-klein-4b": ["klein-4b", "FLUX.2-klein-4B"],
    "qwen-image": ["qwen", "qwen_image", "Qwen-Image"],
    "z-image": ["z_image", "z-image-turbo", "Z-Image-Turbo"],
    "hunyuan-video": ["HunyuanVideo", "hunyuan_video"],
    "wan21-t2v-14b": ["wan2.1-t2v-14b", "wan2.1-14b"],
    "wan22-ti2v-5b": ["Wan2.2-TI2V-5B"],
}


@pytest.mark.parametrize(("name", "typed"), [(name, typed) for name, several in TYPED.items() for typed in several])
def test_a_base_is_found_by_what_people_call_it(name: str, typed: str) -> None:
    assert find_base(typed) is BY_NAME[name]


@pytest.mark.parametrize("typed", ["klein", "wan", "wan2.1", "sd35", "sd3.5", "ltx", "cosmos", ""])
def test_a_name_of_several_bases_is_none(typed: str) -> None:
    assert find_base(typed) is None
    assert len(find_begun(typed)) > 1 or not typed


def test_equal_tables_are_of_equal_blueprints() -> None:
    parts = [part for base in BASES for part in base.components.values()]
    for one, other in combinations(parts, 2):
        if one.table == other.table:
            assert (one.library, one.class_name, one.config) == (other.library, other.class_name, other.config)


def test_every_base_of_the_room_is_in_the_registry() -> None:
    modules = [import_module(f"si_hub.architectures.bases.{file.stem}") for file in ROOM.glob("[!_]*.py")]
    held = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Base)}
    assert sorted(base.name for base in held.values()) == sorted(BY_NAME)
    assert len(BY_NAME) == len(BASES)


def test_every_layout_of_a_base_goes_by_its_own_name() -> None:
    layouts = {layout for base in BASES for layout in base.layouts}
    assert all(LAYOUTS[layout.name] is layout for layout in layouts)
    assert {layout.name for layout in WHOLE} == {layout.name for layout in LAYOUTS.values() if layout.whole}


def constants(file: Path) -> Iterator[tuple[int, str]]:
    """The texts in a module's code, its documentation left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in texts:
            yield node.lineno, node.value


def test_no_other_module_names_a_shipped_base() -> None:
    # Layouts and classes are often called as what they are of; a hint may be an everyday word.
    hints = {hint for base in BASES for hint in base.hints if not (hint.isalpha() and hint.islower())}
    names = {name for base in BASES for name in (base.name, *base.aliases, base.modelspec)} | hints
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {text}"
        for file in sorted(PACKAGE.rglob("*.py")) if not {ROOM, LAYOUT_ROOM}.intersection(file.parents)
        for line, text in constants(file) if text in names - {""}
    ]  # fmt: skip
    assert found == []


def test_the_help_lists_every_base_model() -> None:
    said = CliRunner().invoke(main, ["convert", "--help"]).output
    listed = said[said.index("Base models:") :]
    assert set(BY_NAME) <= set(re.findall(r"[\w.-]+", listed))
