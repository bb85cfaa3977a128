"""Whatever a file says in any field, every output of every command and object is lines of seen characters.

Foreign text once cleared terminals, forged lines of ours and turned the direction of what stood beside it.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from markdown_it import MarkdownIt
from PIL import Image

import si_hub
from si_hub.cli import main
from si_hub.errors import SiHubError
from si_hub.hub.card import card
from si_hub.pipelines.report import ComponentReport, LoadReport
from si_hub.report.progress import ProgressBar, progress_bar
from si_hub.report.writing import write_report
from tests.attacks.hostile_text import (
    FILE_NAME,
    LONG,
    NASTY,
    check_json,
    check_output,
    foreign_files,
    native_changes,
    write_native,
    write_valid,
)
from tests.hub.loopback import LoopbackHub
from tests.hub.loopback.environment import turn_to
from tests.hub.pull.world import OURS
from tests.miniature import BASE, INK, tune_attentions
from tests.report.world import full_report

#: HTML of a card: its marks, and what the Hub shows pictures by.
OUR_MARKUP = {card.TEXT_BEGIN, card.TEXT_END, "<Gallery />"}
#: A name that is no path: an adapter's document holds none of any machine.
NAME = FILE_NAME.replace("\\", "")
NATIVE, NAMES = dict(native_changes(LONG)), dict(native_changes(NAME))
#: Where the format admits any text.
VALID = {
    "title", "author", "license", "tags", "trigger_words", "preview_prompts", "fidelity", "training", "extension",
    "base_model.architecture", "base_model.repo_id", "base_model.prediction_type", "components.unet.class_name",
    "provenance.family", "provenance.tool", "unknown in document", "metadata key", "metadata ss_output_name",
}  # fmt: skip


def run(*arguments: str | Path) -> str:
    """A command, once for people and once for scripts, all that it says checked; what it tells people."""
    told = ""
    for more in ((), ("--json",)):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            result = CliRunner().invoke(main, [str(argument) for argument in (*arguments, *more)])
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)[:500]
        for warning in heard:
            check_output(str(warning.message))
            assert "\n" not in str(warning.message)
        check_output(result.stderr)
        if more and result.exit_code != 2:
            check_json(result.stdout)
        else:
            check_output(result.stdout)
            told += result.stdout + result.stderr
    return told


def check_page(page: str) -> None:
    """Its words, element by element, and what stands in its tags besides pictures."""
    check_output(re.sub(r'src="data:image/png;base64,[A-Za-z0-9+/=]*"|>', "\n", page))


def write_somehow(file: Path, place: str) -> None:
    """A valid file that says it there: the long text, or, where no path may stand, the name."""
    assert write_valid(file, NATIVE[place]) or write_valid(file, NAMES[place])


@pytest.mark.parametrize("place", NATIVE)
def test_a_styleinject_file_says_it(place: str, tmp_path: Path) -> None:
    file = write_native(tmp_path / "a.safetensors", NATIVE[place])
    assert run("inspect", file)
    assert run("validate", file)
    assert run("convert", file)


@pytest.mark.parametrize("place", [place for place in NATIVE if place in VALID])
def test_a_valid_styleinject_file_says_it(place: str, tmp_path: Path) -> None:
    file = tmp_path / f"{FILE_NAME}.safetensors"
    write_somehow(file, place)
    assert "valid, format" in run("validate", file)
    assert "styleinject" in run("inspect", file)


def test_a_foreign_adapter_says_it(tmp_path: Path) -> None:
    for _, path in foreign_files(LONG, tmp_path):
        assert run("inspect", path)
        for partial in ((), ("--allow-partial",)):
            assert run("convert", path, "--base", "sd15", "-o", tmp_path / "out.st.safetensors", "--force", *partial)


def test_a_file_s_name_says_it(tmp_path: Path) -> None:
    folder = tmp_path / FILE_NAME
    folder.mkdir()
    native = write_native(folder / f"{FILE_NAME}.safetensors", lambda d, h: None)
    for words in (("inspect", native), ("inspect", folder), ("validate", native), ("convert", native)):
        assert run(*words)
    for name in ("gone.safetensors", "a.ckpt"):
        (folder / "a.ckpt").write_bytes(b"\x80\x02N.")
        for command in ("inspect", "convert", "validate", "push", "pull"):
            assert run(command, folder / name)
        assert run("distill", folder / name, native)
    assert run("distill", BASE, native)
    assert run("inspect", f"--{FILE_NAME}")
    assert run(FILE_NAME)
    assert run("convert", native, "--base", FILE_NAME)


def test_a_base_model_says_it(tmp_path: Path) -> None:
    folder = shutil.copytree(BASE, tmp_path / "base")
    lora = next(path for place, path in foreign_files("x", tmp_path) if place == "metadata key")
    for file, key in (
        ("model_index.json", "unet"),
        ("model_index.json", "_class_name"),
        ("unet/config.json", "_class_name"),
    ):
        whole = (folder / file).read_text(encoding="utf-8")
        said: Any = ["diffusers", LONG] if key == "unet" else LONG
        (folder / file).write_text(json.dumps(json.loads(whole) | {key: said}), encoding="utf-8")
        assert run("inspect", lora, "--base", folder)
        assert run("convert", lora, "--base", folder, "-o", tmp_path / "out.safetensors", "--force")
        assert run("distill", folder, INK, "--method", "svd", "--rank", "1", "-o", tmp_path / "o.safetensors")
        (folder / file).write_text(whole, encoding="utf-8")


def test_a_distillation_and_its_reports_say_it(tmp_path: Path) -> None:
    """A tuned model of that name: its name is in the success lines, in both reports and in the adapter."""
    tuned = tune_attentions(tmp_path, "ink").rename(tmp_path / NAME)
    out = tmp_path / f"o{NAME}.safetensors"
    reports = [tmp_path / f"r{NAME}{kind}" for kind in (".html", ".png")]
    wishes = [option for file in reports for option in ("--report", file)]
    told = run(
        "distill", BASE, tuned, "--method", "svd", "--rank", "1", "-o", out, "--force", "--pictures", "0", *wishes
    )
    assert r"FORGED\x9b31m" in told
    check_page(reports[0].read_text(encoding="utf-8"))
    assert "owned" in reports[0].read_text(encoding="utf-8")
    Image.open(reports[1]).verify()
    assert run("inspect", out)


@pytest.mark.parametrize(
    "text", [LONG, "$\\frac{$", "_$\\frac{$", "$\udcff$"], ids=["long", "formula", "underscore", "bytes"]
)
def test_a_report_draws_and_writes_it(text: str, tmp_path: Path) -> None:
    """Every text of a report, its legends too, as words: no formula, no markup, no half characters."""
    report = full_report(text)
    for kind in (".html", ".png"):
        write_report(report, tmp_path / f"report{kind}")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    check_page(page)
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert not {"script", "a"} & set(found)
    Image.open(tmp_path / "report.png").verify()


def cards(text: str) -> Iterator[tuple[str, str]]:
    """The card of every golden file that a text has been put into, where such a file can be read at all."""
    import tempfile

    for place, change in native_changes(text):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = write_native(Path(folder) / "a.safetensors", change)
            try:
                adapter = si_hub.format.read(file)
            except SiHubError:
                continue
            for existing in ("", "---\nlicense: mit\n---\n"):
                yield place, card.render(existing, adapter, "user/style", ["samples/1.png"], 1000).text


def test_a_card_says_it_in_words_and_the_hub_reads_our_keys_only(tmp_path: Path) -> None:
    seen = {}
    parser = MarkdownIt("commonmark").enable("table")
    plain = {token.type for _, text in cards("plain") for token in parser.parse(text.split("---\n", 2)[2])}
    for place, text in cards(LONG):
        seen[place] = text
        check_output(text)
        _, front, body = text.split("---\n", 2)
        keys = yaml.safe_load(front)
        assert set(keys) <= {
            "base_model", "base_model_relation", "library_name", "pipeline_tag", "license", "license_name",
            "license_link", "tags", "instance_prompt", "widget",
        }  # fmt: skip
        tokens = parser.parse(body)
        assert {token.type for token in tokens} <= plain, place
        assert {token.content.strip() for token in tokens if token.type == "html_block"} <= OUR_MARKUP
        inner = [child for token in tokens for child in token.children or ()]
        assert {child.type for child in inner} <= {"text", "text_special", "link_open", "link_close", "softbreak"}
        assert not [child for child in inner if child.type == "link_open" and "evil" in str(child.attrs["href"])]
    assert {
        "title",
        "author",
        "trigger_words",
        "preview_prompts",
        "fidelity",
        "training",
        "metadata key",
    } <= seen.keys()


@pytest.mark.parametrize(
    "name", ["- a", "+ a", "1. a", "12) a", "# a", "> a", "---", "===", "* a", "    a", "```", "| a |"]
)
def test_no_name_begins_a_block_of_its_own(name: str) -> None:
    """A name of a table of records stands at the head of a line."""
    from si_hub.hub.card.markdown import tables

    parsed = MarkdownIt("commonmark").enable("table").parse(tables({name: [{"x": 1}]}))
    assert [token.type for token in parsed][:3] == ["paragraph_open", "inline", "paragraph_close"]
    assert parsed[1].content.endswith(":")
    assert parsed[3].type == "table_open"


@pytest.mark.parametrize(
    "tag", ["lora ", " LoRA", "lora\u200b", "\uff4c\uff4f\uff52\uff41", "lora\t", "LORA\u00a0", "template:sd-lora"]
)
def test_no_tag_lists_an_adapter_as_a_lora(tag: str, tmp_path: Path) -> None:
    """The Hub trims tags and matches them without case; a page of LoRAs must not list, nor a loader take, ours."""
    file = write_native(tmp_path / "a.safetensors", lambda d, h: d.update(tags=[tag, "golden"]))
    tags = card.front_matter(si_hub.format.read(file))["tags"]
    assert "golden" in tags
    assert not [tag for tag in tags if "lora" in tag.strip().lower() or "\uff4c" in tag]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    from huggingface_hub import close_session

    with LoopbackHub(tmp_path / "hub") as served:
        turn_to(served.url, tmp_path / "home", monkeypatch)
        close_session()
        yield served
        close_session()


@pytest.mark.parametrize(
    "place", ["title", "trigger_words", "fidelity", "metadata key", "unknown in document", "base_model.architecture"]
)
def test_a_push_says_it(place: str, hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "ink"
    (folder / "samples").mkdir(parents=True)
    write_somehow(folder / "ink.safetensors", place)
    for name in (f"{FILE_NAME}.txt", f"{FILE_NAME}.ckpt", f"samples/{FILE_NAME}.png"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "README.md").write_text(
        f"---\ninstance_prompt: {json.dumps(NASTY)}\n---\nMine: \x1b[2J\u202e\n", encoding="utf-8"
    )
    token = ("--token", hub.token("writer"))
    told = run("push", folder, "user/style", "--dry-run", *token)
    assert "stays here" in told
    assert run("push", folder, "user/style", *token)
    assert "Mine: \x1b[2J\u202e" in hub.repo("user/style").files()["README.md"].decode(), "the user's own words stay"


def test_a_pull_says_it(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.repo("user/style").commit({
        "a.safetensors": OURS, "x\u202e\u200b\u3164.json": "{}", "\u202e.bin": b"x", f"{'y' * 200}\u2028.md": "a",
    })  # fmt: skip
    assert run("pull", "user/style", "--local-dir", tmp_path / FILE_NAME)
    assert run("inspect", "user/style")
    assert run("pull", "user/style", "--revision", "\u202e\u200b")
    assert run("pull", "user/style", "--weight-name", FILE_NAME)
    assert run("convert", "user/style", "--weight-name", FILE_NAME)
    hub.repo("user/bad").commit({"a\x1b[2J.json": "{}", "a.safetensors": OURS})
    assert run("pull", "user/bad")


def test_a_report_of_a_load_says_it() -> None:
    part = ComponentReport((NASTY,), (LONG,) * 9, (f"{LONG}: expected 1, found 2",))
    text = str(LoadReport(LONG, LONG, LONG, {LONG: part}, (LONG,)))
    check_output(text)
    assert "9 missing" in text


def test_a_load_says_it(tmp_path: Path) -> None:
    """Files that load, or do not, into a pipeline: what is printed, warned of and raised."""
    from diffusers import StableDiffusionPipeline

    si_hub.enable()
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    for place, change in native_changes(LONG):
        file = write_native(tmp_path / f"{FILE_NAME}.safetensors", change)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                said = str(pipe.load_styleinject_weights(file, strict=False))
                pipe.unload_styleinject_weights()
            except SiHubError as error:
                said = str(error)
        assert said, place
        check_output(said)
        for warning in heard:
            check_output(str(warning.message))


def test_a_bar_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich reads ``[/x]`` as markup and fails; what else it is told would reach the terminal as it is."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar("[/x] [red]\x9b\u202e") as bar:
        assert isinstance(bar, ProgressBar)
        bar.say("[/y]\x1b]0;owned\x07\u202e\u200b")
        bar(1, 2)
    shown = stream.getvalue()
    assert not {"\x07", "\x9b", "\u202e", "\u200b"} & set(shown)
    assert "\x1b]" not in shown


@pytest.mark.parametrize("make", [lambda: SiHubError(LONG, file=LONG, key=LONG, expected=LONG, found=LONG, hint=LONG)])
def test_an_error_says_it(make: Callable[[], SiHubError]) -> None:
    text = str(make())
    check_output(text)
    assert "\n" not in text
