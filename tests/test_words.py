"""Errors speak to whoever called: the command line's options there, keywords in Python."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import si_hub
from si_hub import distill, inspection, words
from si_hub import format as file_format
from si_hub.cli import main
from si_hub.errors import FileAccessError, SiHubError
from si_hub.storage.header import read_safetensors
from tests.miniature import BASE, INK, NEON
from tests.miniature import KOHYA_LORA as LORA
from tests.places import GOLDEN

PACKAGE = Path(si_hub.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z]")
#: Texts with a flag that are the same whoever reads them: the part of each that tells it, and why.
ONE_LANGUAGE = {"pip install --upgrade si-hub": "pip's own flag"}

#: A call of `si_hub.words` → Python's words, the command line's.
WORDS = {
    "option('base')": ("base=", "--base"),
    "option('weight_name', 'FILE')": ("weight_name=FILE", "--weight-name FILE"),
    "option('method', 'svd')": ("method='svd'", "--method svd"),
    "option('output')": ("output=", "-o"),
    "switch('allow_partial')": ("allow_partial=True", "--allow-partial"),
    "switch('force', python='overwrite')": ("overwrite=True", "--force"),
    "setting('pieces', 'N')": ("pieces=N", "--set pieces=N"),
    "setting('pieces', '8')": ("pieces=8", "--set pieces=8"),
    "label('weight_name')": ("weight_name", "--weight-name"),
    "label('force', python='overwrite')": ("overwrite", "--force"),
    "call('convert', 'a b.bin', base='sdxl')": (
        "si_hub.convert('a b.bin', base='sdxl')", "si-hub convert 'a b.bin' --base sdxl",
    ),
    "call('pull', 'user/style', local_dir='FOLDER', revision=None)": (
        "si_hub.pull('user/style', local_dir=FOLDER)", "si-hub pull user/style --local-dir FOLDER",
    ),
    "call('distill', 'BASE', 'TUNED')": ("si_hub.distill.distill(BASE, TUNED)", "si-hub distill BASE TUNED"),
    "call('curve', 'BASE', 'TUNED')": ("si_hub.distill.curve(BASE, TUNED)", "si-hub distill --curve BASE TUNED"),
}  # fmt: skip


def suggested() -> dict[str, str]:
    """Every call that a text of the package suggests, as Python writes it → as Python would look it up."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "call":
                [command, *arguments] = node.args
                assert isinstance(command, ast.Constant), file
                given = [f"a{k}" for k in range(len(arguments))]
                options = {str(one.arg): "value" for one in node.keywords}
                text = words.call(str(command.value), *given, **options)
                found[text] = text.partition("(")[0]
    return found


def test_what_a_text_suggests_can_be_called_after_importing_si_hub_alone() -> None:
    calls = suggested()
    assert {"si_hub.convert", "si_hub.distill.distill", "si_hub.distill.curve", "si_hub.pull"} <= {*calls.values()}
    tries = [text.replace(name, f"signature({name}).bind") for text, name in calls.items()]
    script = f"""
import sys
import si_hub
from inspect import signature
print("torch" in sys.modules)
for text in {tries!r}:
    eval(text)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


@pytest.mark.parametrize("call", WORDS)
def test_a_text_says_an_option_as_its_reader_writes_it(call: str) -> None:
    in_python, at_command_line = WORDS[call]
    assert eval(f"words.{call}") == in_python
    with words.at_command_line():
        assert eval(f"words.{call}") == at_command_line
    assert eval(f"words.{call}") == in_python


def test_a_command_that_fails_leaves_python_its_words() -> None:
    with pytest.raises(ZeroDivisionError), words.at_command_line():
        1 / 0  # noqa: B018
    assert words.option("base") == "base="


def test_a_strangers_name_is_quoted_in_a_command_and_in_a_call() -> None:
    with words.at_command_line():
        assert words.call("convert", "x; rm -r ~") == "si-hub convert 'x; rm -r ~'"
    assert words.call("convert", "x'); evil('") == """si_hub.convert("x'); evil('")"""


@pytest.fixture
def existing(tmp_path: Path) -> tuple[Path, Path]:
    """A LoRA whose output is there already."""
    source, target = tmp_path / "lora.safetensors", tmp_path / "lora.styleinject.safetensors"
    source.write_bytes(b"\0" * 16)
    target.write_bytes(b"")
    return source, target


def test_one_error_in_python_and_at_the_command_line(existing: tuple[Path, Path]) -> None:
    source, target = existing
    with pytest.raises(SiHubError) as raised:
        si_hub.convert(source)
    python = str(raised.value)
    result = CliRunner().invoke(main, ["convert", str(source), "--json"])
    assert python.startswith(f"{target}: already exists. ")
    assert "force=True" in python
    assert "output=" in python
    assert "--" not in python
    line = result.stderr.removeprefix("si-hub: ").strip()
    assert "--force" in line
    assert "-o" in line.split()[-1]
    assert "=" not in line
    assert json.loads(result.stdout)["hint"] in line
    assert str(raised.value.as_dict()["hint"]) in python


@words.rename_keywords(overwrite="force")
def forced() -> str:
    return words.switch("force", python="overwrite")


def test_a_function_with_keywords_of_its_own_is_spoken_of_in_these() -> None:
    with words.say_instead(base="convert"):
        assert words.option("base") == "convert="
        assert words.label("base") == "convert"
        assert words.option("method") == "method="
        with words.at_command_line():
            assert words.option("base") == "--base"
    assert words.option("base") == "base="
    assert forced() == "force=True"
    with words.at_command_line():
        assert forced() == "--force"


def test_what_a_function_is_given_speaks_its_callers_words(tmp_path: Path) -> None:
    """`convert` has ``force=`` where `write`, called by the user's own function within it, has ``overwrite=``."""
    from si_hub import format as file_format

    there = tmp_path / "there.safetensors"
    adapter = file_format.read(GOLDEN / "one_branch.safetensors")
    file_format.write(adapter, there)
    said: list[str] = []

    def write_again(done: int, total: int) -> None:
        with pytest.raises(FileAccessError) as raised:
            file_format.write(adapter, there)
        said.append(str(raised.value))

    si_hub.convert(LORA, tmp_path / "out.safetensors", base=BASE, progress=write_again)
    assert all("overwrite=True" in text for text in said)
    assert said
    with words.say_instead(overwrite="replace"):
        said.clear()
        si_hub.convert(LORA, tmp_path / "again.safetensors", base=BASE, progress=write_again)
    assert all("replace=True" in text for text in said)


def test_two_commands_that_overlap_leave_python_its_words() -> None:
    entered, left = threading.Event(), threading.Event()
    said: dict[str, str] = {}

    def run_first() -> None:
        with words.at_command_line():
            entered.set()
            assert left.wait(10)
            said["first"] = words.option("base")
        said["after"] = words.option("base")

    first = threading.Thread(target=run_first)
    first.start()
    assert entered.wait(10)
    said["beside"] = words.option("base")
    # The second begins after the first and ends before it, and the other way round below.
    with words.at_command_line():
        said["second"] = words.option("base")
    left.set()
    first.join()
    assert said == {"first": "--base", "second": "--base", "beside": "base=", "after": "base="}
    assert words.option("base") == "base="


def test_the_first_of_two_commands_may_end_first() -> None:
    entered, ended = threading.Event(), threading.Event()

    def run_second() -> None:
        with words.at_command_line():
            entered.set()
            assert ended.wait(10)

    second = threading.Thread(target=run_second)
    with words.at_command_line():
        second.start()
        assert entered.wait(10)
    ended.set()
    second.join()
    assert words.option("base") == "base="


def test_a_thread_that_a_command_starts_speaks_as_the_command_does() -> None:
    said: list[str] = []

    def say() -> None:
        said.append(words.option("base"))

    with words.at_command_line():
        threads = [threading.Thread(target=words.keep_words(say)), threading.Thread(target=say)]
    for thread in threads:
        thread.start()
        thread.join()
    with words.say_instead(base="convert"), ThreadPoolExecutor(1) as pool:
        pool.submit(words.keep_words(say)).result()
        pool.submit(say).result()
    assert said == ["--base", "base=", "convert=", "base="]


def test_every_thread_of_the_package_keeps_its_words() -> None:
    """What a thread runs that may fail with a text: `Thread(target=…)`, `submit` and `map` of a pool."""
    mute = {"digest.update", "_write_behind"}
    found = set()
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if "Thread(" not in text and "ThreadPoolExecutor(" not in text:
            continue
        for function in re.findall(r"Thread\(target=([\w.]+)|\b(?:submit|pool\.map)\(([\w.]+)", text):
            found.add("".join(function))
    assert found - mute == {"keep_words"}


def texts(file: Path) -> Iterator[str]:
    """Every string constant of a module that is no docstring; of an f-string, its constant parts."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            # A flag may be put together: f"--{name}".
            yield node.value + ("x" if id(node) in parts and node.value.endswith("--") else "")


def test_no_text_is_written_for_the_command_line_alone() -> None:
    mute = {*(PACKAGE / "cli").iterdir(), PACKAGE / "words.py"}
    found = [text for file in PACKAGE.rglob("*.py") if file not in mute for text in texts(file) if FLAG.search(text)]
    assert [text for text in found if not any(known in text for known in ONE_LANGUAGE)] == []
    assert [known for known in ONE_LANGUAGE if not any(known in text for text in found)] == []


@dataclass(frozen=True)
class Case:
    """One mistake, made in Python and at the command line; and the words that each has for what to do."""

    python: Callable[[Path], object]
    command: Callable[[Path], list[str | Path]]
    in_python: str
    at_command_line: str


def lora(folder: Path, *names: str, width: int = 320) -> Path:
    """A LoRA of SD's first attention block, or of modules by these names."""
    tensors = {}
    for name in names or ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k",):
        tensors[f"{name}.lora_down.weight"] = np.ones((4, width), np.float16)
        tensors[f"{name}.lora_up.weight"] = np.ones((width, 4), np.float16)
    save_file(tensors, folder / "lora.safetensors")
    return folder / "lora.safetensors"


def partly(folder: Path) -> Path:
    """A LoRA of SD 1.5 with one module in thirteen that it has not."""
    places = ("down_blocks_0", "down_blocks_1", "down_blocks_2", "up_blocks_1", "up_blocks_2", "up_blocks_3")
    stems = [f"lora_unet_{p}_attentions_{k}_transformer_blocks_0_attn1_to_q" for p in places for k in (0, 1)]
    tensors = {}
    for stem in stems:
        width = {"0": 320, "1": 640, "2": 1280}[stem[22]] if "_down_" in stem else 0
        width = width or {"1": 1280, "2": 640, "3": 320}[stem[20]]
        tensors[f"{stem}.lora_down.weight"] = np.ones((4, width), np.float16)
        tensors[f"{stem}.lora_up.weight"] = np.ones((width, 4), np.float16)
    tensors["lora_unet_strange.lora_down.weight"] = np.ones((4, 320), np.float16)
    tensors["lora_unet_strange.lora_up.weight"] = np.ones((320, 4), np.float16)
    save_file(tensors, folder / "partly.safetensors")
    return folder / "partly.safetensors"


def models(folder: Path, *more: str | Path) -> list[str | Path]:
    return ["distill", BASE, INK, "-o", folder / "out.safetensors", *more]


def asked(folder: Path, *tuned: Path, **options: object) -> object:
    return distill.distill(BASE, *(tuned or (INK,)), output=folder / "out.safetensors", **options)  # type: ignore[arg-type]


#: What went wrong → how it is done, and what is said. Every room that a user's mistake can reach.
CASES = {
    "several bases fit": Case(
        lambda at: si_hub.convert(lora(at)), lambda at: ["convert", lora(at)], "with base=.", "with --base."
    ),
    "no base fits": Case(
        lambda at: si_hub.convert(lora(at, width=33)), lambda at: ["convert", lora(at, width=33)],
        "with base=: a diffusers folder", "with --base: a diffusers folder",
    ),
    "not all of it fits": Case(
        lambda at: si_hub.convert(partly(at), base="sd15"), lambda at: ["convert", partly(at), "--base", "sd15"],
        "fits with allow_partial=True.", "fits with --allow-partial.",
    ),
    "the output is the source": Case(
        lambda at: si_hub.convert(lora(at), at / "lora.safetensors", base="sd15", force=True),
        lambda at: ["convert", lora(at), "-o", at / "lora.safetensors", "--base", "sd15", "-f"],
        "another file with output=.", "another file with -o.",
    ),
    "a file of a file": Case(
        lambda at: si_hub.convert(lora(at), weight_name="a"), lambda at: ["convert", lora(at), "--weight-name", "a"],
        "weight_name: names a file of a repository", "--weight-name: names a file of a repository",
    ),
    "a checkpoint is no adapter": Case(
        lambda at: si_hub.convert(INK), lambda at: ["convert", INK],
        "si_hub.distill.distill(BASE, TUNED) makes", "si-hub distill BASE TUNED makes",
    ),
    "a LoRA is no StyleInject file": Case(
        lambda at: inspection.validate_file(LORA), lambda at: ["validate", LORA],
        "first: si_hub.convert(FILE).", "first: si-hub convert FILE.",
    ),
    "two budgets": Case(
        lambda at: asked(at, rank=4, size=40_000), lambda at: models(at, "--rank", "4", "--size", "40kB"),
        "rank, size and fidelity are", "--rank, --size and --fidelity are",
    ),
    "no share": Case(
        lambda at: asked(at, fidelity=2.0), lambda at: models(at, "--fidelity", "2"),
        "fidelity: a fidelity lies", "--fidelity: a fidelity lies",
    ),
    "an option that svd has not": Case(
        lambda at: asked(at, method="svd", steps=4), lambda at: models(at, "--method", "svd", "--steps", "4"),
        "steps: the method svd has no such option (expected guidance, resolution). Leave it out; only",
        "--steps: the method svd has no such option (expected guidance, resolution). Leave it out; only",
    ),
    "no whole number": Case(
        lambda at: asked(at, method="trained", steps=0), lambda at: models(at, "--method", "trained", "--steps", "0"),
        "steps: is a whole number", "--steps: is a whole number",
    ),
    "no number of pictures": Case(
        lambda at: asked(at, pictures=-1), lambda at: models(at, "--pictures", "-1"),
        "pictures: a number of pictures", "--pictures: a number of pictures",
    ),
    "one name for two": Case(
        lambda at: asked(at, INK, NEON, method="calibrated", branches="ink"),
        lambda at: [*models(at), NEON, "--method", "calibrated", "--branches", "ink"],
        "branches='ink,neon'", "--branches ink,neon",
    ),
    "swapped models": Case(
        lambda at: distill.distill(INK, BASE, output=at / "out.safetensors"),
        lambda at: ["distill", INK, BASE, "-o", at / "out.safetensors"],
        "say trust_order=True.", "say --trust-order.",
    ),
    "a LoRA is no tuned model": Case(
        lambda at: asked(at, LORA), lambda at: ["distill", BASE, LORA, "-o", at / "out.safetensors"],
        "si_hub.convert('kohya_lora.safetensors')", "si-hub convert kohya_lora.safetensors",
    ),
    "fidelity that svd cannot measure": Case(
        lambda at: asked(at, method="svd", fidelity=0.9), lambda at: models(at, "--method", "svd", "--fidelity", "0.9"),
        "Give rank or size, or another method.", "Give --rank or --size, or another --method.",
    ),
    "a rank for a curve": Case(
        lambda at: distill.curve(BASE, INK, rank=4), lambda at: ["distill", BASE, INK, "--curve", "--rank", "4"],
        "rank: a curve is drawn", "--rank: a curve is drawn",
    ),
    "a report that is there": Case(
        lambda at: asked(at, report=lora(at).rename(at / "a.png")),
        lambda at: models(at, "--report", lora(at).rename(at / "a.png")),
        "Overwrite it with force=True", "Overwrite it with --force",
    ),
    "a foreign file is not pushed": Case(
        lambda at: si_hub.push(LORA, "user/neon"), lambda at: ["push", LORA, "user/neon"],
        "si_hub.convert('", "si-hub convert /",
    ),
    "a tag for a pull request": Case(
        lambda at: si_hub.push(at, tag="v1", create_pr=True), lambda at: ["push", at, "--tag", "v1", "--create-pr"],
        "tag: a tag for a pull request", "--tag: a tag for a pull request",
    ),
    "nothing may be asked": Case(
        lambda at: si_hub.pull("user/neon", cache_dir=at, force_download=True, local_files_only=True),
        lambda at: ["pull", "user/neon", "--cache-dir", at, "--force", "--local-files-only"],
        "force_download: nothing can", "--force: nothing can",
    ),
    "not in the cache": Case(
        lambda at: si_hub.pull("user/neon", cache_dir=at, local_files_only=True),
        lambda at: ["pull", "user/neon", "--cache-dir", at, "--local-files-only"],
        "si_hub.pull('user/neon')", "si-hub pull user/neon",
    ),
}  # fmt: skip
#: Every option that the command line has a flag for, as Python would write it.
KEYWORDS = {name for command in main.commands.values() for one in command.params for name in one.opts if "--" in name}
ASSIGNED = re.compile(rf"\b({'|'.join(sorted(name[2:].replace('-', '_') for name in KEYWORDS))})=")


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_mistake_is_told_in_the_words_it_was_made_in(case: Case, tmp_path: Path) -> None:
    with pytest.raises(SiHubError) as raised:
        case.python(tmp_path)
    python = str(raised.value)
    assert case.in_python in python
    assert not FLAG.search(python)
    assert "si-hub " not in python
    assert " -o" not in python
    for file in tmp_path.iterdir():
        file.unlink()
    result = CliRunner().invoke(main, [*map(str, case.command(tmp_path))])
    assert result.exit_code == raised.value.exit_code, result.output
    assert case.at_command_line in result.stderr
    assert "si_hub." not in result.stderr
    assert "=True" not in result.stderr
    assert not ASSIGNED.search(result.stderr)


def test_a_result_is_told_in_the_words_it_was_asked_for_in_and_written_in_neither(tmp_path: Path) -> None:
    files = [tmp_path / "python.safetensors", tmp_path / "command.safetensors"]
    made = distill.distill(BASE, INK, output=files[0], method="svd", rank=1)
    command = ["distill", str(BASE), str(INK), "-o", str(files[1]), "--method", "svd", "--rank", "1", "--json"]
    told = json.loads(CliRunner().invoke(main, command, catch_exceptions=False).stdout)
    assert made.notes[-1].startswith("embeddings=True carries embeddings whole: ")
    assert told["notes"][-1].startswith("--embeddings carries embeddings whole: ")
    assert not FLAG.search(json.dumps([made.as_dict()["left_out"], made.notes, made.warnings, made.reason]))
    assert files[0].read_bytes() == files[1].read_bytes()
    written = json.dumps(file_format.read_document(read_safetensors(files[0])))
    assert "no low-rank pair can stand for it" in written
    assert not FLAG.search(written)
    assert "embeddings=" not in written


def test_a_pipelines_loader_speaks_of_its_own_keywords(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    si_hub.enable()
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None)
    mistakes: dict[str, tuple[Path, bool | str]] = {
        "Load it into a pipeline of the base it is made for.": (lora(tmp_path), True),
        "fits with strict=False.": (partly(tmp_path), "sd15"),
        f"Convert it first: si_hub.convert('{LORA}')": (LORA, False),
    }
    for said, (source, convert) in mistakes.items():
        with pytest.raises(SiHubError) as raised:
            pipe.load_styleinject_weights(source, convert=convert)
        assert said in str(raised.value)
        assert not FLAG.search(str(raised.value))
        assert "base=" not in str(raised.value)


def test_a_command_that_others_are_to_type_is_quoted_for_a_shell() -> None:
    told = words.command_text(
        ["si-hub", "distill", "my base"], {"size": 4, "seed": None, "title": "a b"}, {"pieces": "x y"}
    )
    assert told == "si-hub distill 'my base' --size 4 --title 'a b' --set pieces='x y'"
