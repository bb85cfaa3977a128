"""The card: what the Hub reads off it, what people read, and that the user's own words stay."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from si_hub.adapter import Adapter, BaseModel, Component, Layer
from si_hub.errors import CardError
from si_hub.hub.card import card
from si_hub.hub.card.card import TEXT_BEGIN, TEXT_END, render
from si_hub.storage.tensors import Tensor

PARSER = MarkdownIt("commonmark").enable("table")
#: What the Hub takes for a front matter, as huggingface_hub has it.
HUB = re.compile(r"^(\s*---(?:\r\n|\r|\n))([\S\s]*?)((?:\r\n|\r|\n)---[ \t]*(\r\n|\n|$))")
SAMPLES = ["samples/1.png", "samples/2.png"]
HOSTILE = st.text("ab <>&`*_[]()#|\\-!~:/'\"{}%@$=+.,\n\r\t0é🎨\u202e\u2028\x1b", max_size=40) | st.sampled_from(
    [
        TEXT_BEGIN, TEXT_END, "---", "</script><script>", "# si-hub: end", "a: b\nlicense: evil", "${{x}}", "lora",
        "```",
        "[x](javascript:1)",
    ]
)  # fmt: skip
#: Bodies as users write them.
WRITTEN = ["# Mine\n\nMy words.\n", "No end", "a\r\nb\r\n", "## Section\n\n- list\n", "<!-- comment -->\n", "\n\n\n"]
BODIES = st.sampled_from(WRITTEN) | st.text("abc #-*`<>\n\r", max_size=60).filter(
    lambda text: not text.lstrip().startswith("---")
)
BLOCKS = st.sampled_from(
    ["", "---\nlanguage: en\n---\n", "---\nlicense: mit\ntags: [a]\n# note\n---\n", "---\r\nextra:\r\n- 1\r\n---\r\n"]
)


def numbers(*shape: int) -> Tensor:
    size = 4
    for axis in shape:
        size *= axis
    return Tensor.from_bytes("F32", shape, bytes(size))


def adapter(branches: int = 1, base: BaseModel | None = None, names: tuple[str, ...] = (), **about: Any) -> Adapter:
    tensors = {"down.weight": numbers(2 * branches, 3), "up.weight": numbers(4, 2)}
    tensors |= {"router.bias": numbers(branches)} if branches > 1 else {}
    components = {"unet": Component("UNet2DConditionModel", {"a.b": Layer(tensors, 1.0)})}
    return Adapter(base or BaseModel("sd15", "org/base"), components, names, about)


@st.composite
def adapters(draw: st.DrawFn) -> Adapter:
    texts = st.lists(HOSTILE.filter(bool), max_size=3)
    about = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "title": HOSTILE, "author": HOSTILE, "license": HOSTILE, "trigger_words": texts,
                "preview_prompts": texts,
                "tags": texts, "provenance": st.dictionaries(HOSTILE, HOSTILE, max_size=2),
                "fidelity": st.dictionaries(HOSTILE, HOSTILE | st.floats() | texts, max_size=2),
                "training": st.dictionaries(HOSTILE, st.integers(), max_size=2),
            },
        )
    )  # fmt: skip
    names = draw(st.sampled_from([(), ("ink", "neon")]) | st.tuples(HOSTILE.filter(bool), HOSTILE.filter(bool)))
    base = BaseModel(draw(HOSTILE.filter(bool) | st.just("sdxl")), draw(st.none() | HOSTILE | st.just("org/base")))
    return adapter(2, base, names, **about)


def matter(text: str) -> dict[str, Any]:
    """The front matter as huggingface_hub reads it."""
    return dict(yaml.safe_load(ModelCard(text.lstrip("\ufeff"), ignore_metadata_errors=True).data.to_yaml()))


@given(adapters(), BLOCKS, BODIES, st.sampled_from([[], SAMPLES]))
def test_rendering_keeps_every_word_of_the_user_and_twice_is_once(
    given_adapter: Adapter, block: str, body: str, samples: list[str]
) -> None:
    text = render(block + body, given_adapter, "user/style", samples, 1234).text
    assert render(text, given_adapter, "user/style", samples, 1234).text == text
    found = HUB.match(text)
    assert found
    behind = text[found.end() :]
    assert behind.count(TEXT_BEGIN) == behind.count(TEXT_END) == 1
    assert body in behind[: behind.index(TEXT_BEGIN)]
    own = block.replace("\r", "").removeprefix("---\n").removesuffix("---\n")
    assert found[2].replace("\r", "").startswith(own)
    assert (yaml.safe_load(own) or {}).items() <= yaml.safe_load(found[2]).items()


@given(adapters())
def test_no_text_of_an_adapter_becomes_markup_metadata_or_a_mark(hostile: Adapter) -> None:
    text = render("", hostile, "user/style", SAMPLES, 1234).text
    found = HUB.match(text)
    assert found
    keys = yaml.safe_load(found[2])
    known = {
        "base_model",
        "base_model_relation",
        "library_name",
        "pipeline_tag",
        "license",
        "license_name",
        "license_link",
    }
    assert set(keys) <= known | {"tags", "instance_prompt", "widget"}
    assert not {"lora", "LoRA"} & set(keys["tags"])
    assert [item["output"]["url"] for item in keys["widget"]] == SAMPLES
    links, blocks = [], []
    for token in PARSER.parse(text[found.end() :]):
        blocks += [token.content.strip()] if token.type == "html_block" else []
        for child in token.children or ():
            assert child.type in ("text", "text_special", "softbreak", "link_open", "link_close"), child
            links += [child.attrs["href"]] if child.type == "link_open" else []
    assert blocks == [TEXT_BEGIN, "<Gallery />", TEXT_END]
    assert links[0] == "https://arxiv.org/abs/2401.13942"
    assert all(str(link).startswith("https://huggingface.co/") for link in links[1:])


def test_the_front_matter_says_what_the_hub_asks_for() -> None:
    about: dict[str, Any] = {
        "license": "Apache-2.0",
        "tags": ["ink", "LoRA"],
        "trigger_words": ["inkstyle"],
        "preview_prompts": ["a cat"],
    }
    rendered = render("", adapter(**about), "user/style", SAMPLES, 5)
    assert matter(rendered.text) == {
        "base_model": "org/base", "base_model_relation": "adapter", "library_name": "si-hub",
        "pipeline_tag": "text-to-image", "license": "apache-2.0", "tags": ["styleinject", "text-to-image", "ink"],
        "instance_prompt": "inkstyle",
        "widget": [
            {"text": "a cat", "output": {"url": "samples/1.png"}}, {"text": "-", "output": {"url": "samples/2.png"}},
        ],
    }  # fmt: skip
    assert rendered.notes == ()


def test_people_read_how_to_load_it_how_close_it_is_and_where_it_comes_from() -> None:
    text = render(
        "", adapter(3, names=("ink", "neon", "oil"), title="Ink & Neon", fidelity={"relative_error": 0.0312},
                    provenance={"family": "distilled", "error": 0.03}), "user/style", SAMPLES, 2_500_000,
    ).text  # fmt: skip
    code = [token.content for token in PARSER.parse(text[text.index(TEXT_BEGIN) :]) if token.type == "fence"]
    assert code[0] == "pip install si-hub\n"
    assert code[1].splitlines() == [
        "import si_hub; from diffusers import DiffusionPipeline; si_hub.enable()",
        'pipe = DiffusionPipeline.from_pretrained("org/base")',
        'pipe.load_styleinject_weights("user/style")',
        'pipe.set_styles({"ink": 0.7, "neon": 0.3, "oil": 0.0})',
    ]
    for words in (
        "# Ink &#38; Neon",
        "<Gallery />",
        "| relative error | 0.0312 |",
        "| kind | distilled |",
        "| relative error | 0.03 |",
        "2.5 MB",
    ):
        assert words in text


def test_a_card_without_pictures_has_no_gallery() -> None:
    text = render("", adapter(), "user/style").text
    assert "Gallery" not in text
    assert "widget" not in matter(text)


def test_the_users_title_is_the_only_one() -> None:
    assert "# style\n" in render("My words.\n", adapter(), "user/style").text
    assert "# style\n" not in render("# Mine\n\nMy words.\n", adapter(), "user/style").text
    assert "# style\n" not in render("Mine\n====\n\nMy words.\n", adapter(), "user/style").text


def test_the_generated_part_stays_where_the_user_moved_it() -> None:
    text = render("", adapter(title="Old"), "user/style").text
    moved = text.replace("---\n\n" + TEXT_BEGIN, "---\n\nAbove.\n\n" + TEXT_BEGIN) + "Below.\n"
    renewed = render(moved, adapter(title="New"), "user/style").text
    assert renewed == moved.replace("# Old", "# New")


@pytest.mark.parametrize(
    "text",
    [
        TEXT_BEGIN,
        TEXT_END,
        f"{TEXT_END}\n{TEXT_BEGIN}",
        f"{TEXT_BEGIN}\n{TEXT_BEGIN}\n{TEXT_END}",
        f"{TEXT_BEGIN}{TEXT_END}{TEXT_END}",
    ],
)
def test_marks_that_are_no_pair_are_an_error(text: str) -> None:
    with pytest.raises(CardError, match="not one pair"):
        render(text, adapter(), "user/style")


@pytest.mark.parametrize("base", [None, "/home/me/model", "../x", "base", "a/b/c", "https://evil.example/x", "a b/c"])
def test_a_base_model_that_is_no_repository_is_the_usual_one_or_none(base: str | None) -> None:
    assert card.base_repository(adapter(base=BaseModel("sdxl", base))) == "stabilityai/stable-diffusion-xl-base-1.0"
    rendered = render("", adapter(base=BaseModel("mymodel", base)), "user/style")
    assert "base_model" not in matter(rendered.text)
    assert any("no base_model" in note for note in rendered.notes)
    assert 'from_pretrained(input("Folder of the base model: "))' in rendered.text
    assert "for a model of its own, mymodel:" in rendered.text


def test_what_the_users_keys_shadow_is_told() -> None:
    own = "---\nlicense: mit\nbase_model: other/base\ntags: [mine]\n---\n"
    rendered = render(own, adapter(license="Apache-2.0"), "user/style")
    assert matter(rendered.text)["base_model"] == "other/base"
    assert 'from_pretrained("other/base")' in rendered.text
    assert render(rendered.text, adapter(license="Apache-2.0"), "user/style").text == rendered.text
    assert len(rendered.notes) == 3
    assert render("---\nlicense: apache-2.0\n---\n", adapter(license="Apache-2.0"), "user/style").notes == ()


def test_what_the_users_keys_say_alone_is_not_asked_for() -> None:
    unknown = adapter(base=BaseModel("mymodel"))
    own = render("---\nlicense: mit\nbase_model: my/base\n---\n", unknown, "user/style")
    assert own.notes == ()
    assert 'from_pretrained("my/base")' in own.text
    assert len(render("", unknown, "user/style").notes) == 2


def test_bytes_that_are_no_text_or_too_many_are_an_error() -> None:
    with pytest.raises(CardError, match="not UTF-8"):
        card.decode(b"caf\xe9")
    with pytest.raises(CardError, match="too long"):
        card.decode(b"a" * (card.CARD_LIMIT + 1))


def test_branch_names_are_shown_in_the_code_as_they_are() -> None:
    names = ('a"b', "c\\d")
    text = render("", adapter(2, names=names), "user/style").text
    (line,) = [line for line in text.splitlines() if line.startswith("pipe.set_styles(")]
    assert json.loads(line.removeprefix("pipe.set_styles(").removesuffix(")")) == {'a"b': 0.7, "c\\d": 0.3}
