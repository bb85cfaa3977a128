"""What a push leaves behind: in the repository, in the folder, and in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from si_hub.cli import main
from si_hub.errors import (
    AuthError,
    CardError,
    ChecksumError,
    ConflictError,
    MissingRepository,
    NetworkError,
    UsageError,
)
from si_hub.hub.pull.pulling import pull
from si_hub.hub.push.content import digest_bytes
from si_hub.hub.push.pushing import MESSAGE, push
from tests.hub.push.conftest import PNG, Push
from tests.places import GOLDEN

if TYPE_CHECKING:
    from tests.hub.loopback import LoopbackHub

STYLE = "user/style"
OURS = ["README.md", "config.json", "samples/1.png", "styleinject.safetensors"]


def retrain(folder: Path, name: str = "three_branches") -> bytes:
    """Another adapter under the same name."""
    shutil.copy(GOLDEN / f"{name}.safetensors", folder / "ink.safetensors")
    return (folder / "ink.safetensors").read_bytes()


def asked(hub: LoopbackHub) -> list[str]:
    """Requests that are not mere questions."""
    return [f"{e.method} {e.path}" for e in hub.log if e.method not in ("GET", "HEAD")]


def test_the_first_push_makes_the_repository_and_one_commit(send: Push, client: LoopbackHub, folder: Path) -> None:
    result = send(STYLE)
    repo = client.repo(STYLE)
    assert repo.messages() == [MESSAGE, "initial commit"]
    assert sorted(repo.files()) == OURS
    assert repo.files()["styleinject.safetensors"] == (folder / "ink.safetensors").read_bytes()
    assert repo.files()["samples/1.png"] == PNG
    assert (result.commit, result.changed, result.created) == (repo.head(), True, True)
    assert result.url == f"{client.url}/{STYLE}/commit/{repo.head()}"
    assert result.load == 'pipe.load_styleinject_weights("user/style")'
    assert sorted(result.sent) == OURS


def test_pushing_again_needs_no_name_and_makes_no_commit(send: Push, client: LoopbackHub, folder: Path) -> None:
    first = send(STYLE)
    client.log.clear()
    again = send()
    assert (again.changed, again.commit, again.repo_id) == (False, first.commit, STYLE)
    assert sorted(again.kept) == OURS
    assert asked(client) == []
    assert len(client.log) == 5
    assert client.repo(STYLE).commits()[0] == first.commit


def test_a_retrained_adapter_is_a_second_commit_of_what_changed(send: Push, client: LoopbackHub, folder: Path) -> None:
    first = send(STYLE)
    raw = retrain(folder)
    second = send(commit_message="Retrained\n\nwith more pictures")
    repo = client.repo(STYLE)
    assert repo.commits()[:2] == [second.commit, first.commit]
    assert repo.messages()[0] == "Retrained"
    assert repo.files()["styleinject.safetensors"] == raw
    assert "samples/1.png" in second.kept


def test_the_folder_remembers_in_one_hidden_file_and_never_the_token(
    send: Push, client: LoopbackHub, folder: Path
) -> None:
    result = send(STYLE)
    text = (folder / ".si-hub.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "adapters": {"ink.safetensors": STYLE}, "commits": {f"{client.url}/{STYLE}@main": result.commit},
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == {"ink.safetensors", "samples", ".si-hub.json"}


def test_a_folder_that_cannot_be_written_to_is_said_and_the_push_goes_on(
    send: Push, client: LoopbackHub, folder: Path
) -> None:
    (folder / ".si-hub.json").mkdir()
    result = send(STYLE)
    assert any("remembered" in note for note in result.notes)
    assert client.repo(STYLE).head() == result.commit


def test_without_a_name_the_first_time_nothing_is_asked(send: Push, client: LoopbackHub, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"si_hub\.push\('\S+ink\.safetensors', 'user/name'\)"):
        send(path=folder / "ink.safetensors")
    assert len(client.log) == 0


def test_the_users_card_is_renewed_in_the_repository_and_left_alone_here(
    send: Push, client: LoopbackHub, folder: Path
) -> None:
    own = "---\nlicense: mit\n# mine\n---\n# My style\r\n\nWords.\n"
    (folder / "README.md").write_bytes(own.encode())
    send(STYLE)
    assert (folder / "README.md").read_bytes() == own.encode()
    text = client.repo(STYLE).files()["README.md"].decode()
    assert text.startswith("---\nlicense: mit\n# mine\n# si-hub: generated")
    assert "# My style\r\n\nWords.\n" in text
    assert "<Gallery />" in text
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "si-hub"


def test_words_written_on_the_hub_stay_where_this_folder_has_none(
    send: Push, client: LoopbackHub, folder: Path
) -> None:
    send(STYLE)
    repo = client.repo(STYLE)
    edited = repo.files()["README.md"].decode() + "\nWritten in the browser.\n"
    repo.commit({"README.md": edited}, "edit")
    retrain(folder)
    with pytest.raises(ConflictError, match="moved since the last push"):
        send()
    send(force=True)
    text = repo.files()["README.md"].decode()
    assert text.endswith("\nWritten in the browser.\n")
    assert "3 branches" in text


def test_a_repository_with_a_card_and_nothing_else_is_filled(send: Push, client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"README.md": "---\nlicense: mit\n---\n", "notes.txt": "mine"}, "by hand")
    result = send(STYLE)
    files = client.repo(STYLE).files()
    assert files["notes.txt"] == b"mine"
    assert files["README.md"].decode().startswith("---\nlicense: mit\n# si-hub")
    assert result.others == ["notes.txt"]


def test_another_adapter_that_this_folder_has_never_seen_is_not_overwritten(send: Push, client: LoopbackHub) -> None:
    before = client.repo(STYLE).commit({"styleinject.safetensors": b"another"})
    with pytest.raises(ConflictError, match=r"has not seen it yet.*styleinject\.safetensors.*si_hub\.pull"):
        send(STYLE)
    assert client.repo(STYLE).head() == before
    assert send(STYLE, force=True).commit == client.repo(STYLE).head()


def test_a_config_of_another_library_stays(send: Push, client: LoopbackHub, folder: Path) -> None:
    client.repo(STYLE).commit({"config.json": '{"model_type": "clip"}'})
    result = send(STYLE)
    assert client.repo(STYLE).files()["config.json"] == b'{"model_type": "clip"}'
    assert any("config.json of its own" in note for note in result.notes)


def test_our_config_of_another_base_model_is_renewed(send: Push, client: LoopbackHub, folder: Path) -> None:
    send(STYLE)
    retrain(folder)
    assert "config.json" in send().sent
    assert b"sdxl" in client.repo(STYLE).files()["config.json"]


def test_files_that_are_gone_here_stay_there(send: Push, client: LoopbackHub, folder: Path) -> None:
    send(STYLE)
    (folder / "samples" / "1.png").unlink()
    result = send()
    assert result.others == ["samples/1.png"]
    assert client.repo(STYLE).files()["samples/1.png"] == PNG
    assert "Gallery" not in client.repo(STYLE).files()["README.md"].decode()


def test_offline_is_said_and_nothing_is_asked(send: Push, client: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import close_session, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE"):
        send(STYLE)
    assert len(client.log) == 0


def test_a_hub_that_is_not_there_is_said(folder: Path, waits: list[float]) -> None:
    with pytest.raises(NetworkError, match="cannot be reached"):
        push(folder, STYLE, token="hf_token", endpoint="http://127.0.0.1:1")
    assert len(waits) == 5


def test_a_stranger_may_propose_and_not_push(send: Push, client: LoopbackHub, folder: Path) -> None:
    send(STYLE)
    retrain(folder)
    client.log.clear()
    with pytest.raises(AuthError):
        send(token="other", force=True)
    assert asked(client) == []
    assert send(token="other", create_pr=True).branch == "refs/pr/1"


def test_a_dry_run_only_asks_and_shows_the_card(send: Push, client: LoopbackHub, folder: Path) -> None:
    result = send(STYLE, dry_run=True)
    assert client.repositories == []
    assert asked(client) == ["POST /api/validate-yaml"]  # a question, which every commit asks too
    assert (result.dry_run, result.created, result.commit) == (True, True, None)
    assert "+library_name: si-hub" in result.card_diff
    assert not (folder / ".si-hub.json").exists()
    send(STYLE)
    retrain(folder)
    before = client.repo(STYLE).head()
    client.log.clear()
    result = send(dry_run=True)
    assert client.repo(STYLE).head() == before
    assert asked(client) == ["POST /api/validate-yaml"]
    assert "-base_model: runwayml/stable-diffusion-v1-5" in result.card_diff
    assert sorted(result.sent) == ["README.md", "config.json", "styleinject.safetensors"]


def test_a_private_repository_of_others_looks_as_if_it_were_not_there(send: Push, client: LoopbackHub) -> None:
    client.repo("other/style", private=True)
    with pytest.raises(AuthError):
        send("other/style")
    with pytest.raises(MissingRepository):
        send("other/style", create_pr=True)


def test_a_broken_adapter_is_found_before_the_hub_is_asked(send: Push, client: LoopbackHub, folder: Path) -> None:
    raw = bytearray((folder / "ink.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "ink.safetensors").write_bytes(raw)
    with pytest.raises(ChecksumError):
        send(STYLE)
    assert len(client.log) == 0


def test_a_card_of_ten_megabytes_is_refused_here_and_there(send: Push, client: LoopbackHub, folder: Path) -> None:
    repo = client.repo(STYLE)
    head = repo.commit({"README.md": "x" * 2_000_001})
    with pytest.raises(UsageError, match=r"user/style: README\.md: the repository's card is too long to be renewed"):
        send(STYLE)
    assert (repo.head(), repo.branches) == (head, {"main": head})
    assert asked(client) == []
    assert not [exchange for exchange in client.log if "/resolve/" in exchange.path]
    client.log.clear()
    (folder / "README.md").write_bytes(b"x" * 10_000_000)
    with pytest.raises(CardError, match="too long for a card"):
        send(STYLE)
    assert len(client.log) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"create_pr": True, "tag": "v1"},
        {"create_pr": True, "revision": "dev"},
        {"commit_message": "\nx"},
        {"tag": "a b"},
    ],
)
def test_options_that_make_no_sense_are_refused(send: Push, client: LoopbackHub, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        send(STYLE, **options)
    assert len(client.log) == 0


def test_a_push_that_died_after_its_commit_knows_its_own_work(send: Push, client: LoopbackHub, folder: Path) -> None:
    send(STYLE)
    before = (folder / ".si-hub.json").read_text(encoding="utf-8")
    retrain(folder)
    send()
    memory = json.loads(before)
    hashes = {name: digest_bytes(raw).text for name, raw in client.repo(STYLE).files().items()}
    (folder / ".si-hub.json").write_text(
        json.dumps(memory | {"pending": {f"{client.url}/{STYLE}@main": hashes}}), encoding="utf-8"
    )
    raw = retrain(folder, "kron")
    assert send().changed
    assert client.repo(STYLE).files()["styleinject.safetensors"] == raw


def test_a_push_that_died_before_its_commit_takes_nobody_elses_for_its_own(
    send: Push, client: LoopbackHub, folder: Path
) -> None:
    send(STYLE)
    client.repo(STYLE).commit({"README.md": "theirs"})
    memory = json.loads((folder / ".si-hub.json").read_text(encoding="utf-8"))
    files = client.repo(STYLE).files() | {"README.md": b"mine"}
    hashes = {name: digest_bytes(raw).text for name, raw in files.items()}
    (folder / ".si-hub.json").write_text(
        json.dumps(memory | {"pending": {f"{client.url}/{STYLE}@main": hashes}}), encoding="utf-8"
    )
    retrain(folder)
    with pytest.raises(ConflictError, match="moved since"):
        send()


def test_a_pulled_folder_is_pushed_from_without_a_name(
    send: Push, client: LoopbackHub, folder: Path, tmp_path: Path
) -> None:
    first = send(STYLE)
    there = tmp_path / "pulled"
    pull(STYLE, local_dir=there, token=client.token())
    (there / "README.md").write_bytes((there / "README.md").read_bytes() + b"\nMore words.\n")
    shutil.copy(GOLDEN / "kron.safetensors", there / "styleinject.safetensors")
    result = send(path=there)
    assert client.repo(STYLE).commits()[:2] == [result.commit, first.commit]
    assert client.repo(STYLE).files()["README.md"].endswith(b"\nMore words.\n")
    assert send(path=there).changed is False
    retrain(folder)
    with pytest.raises(ConflictError, match="moved since"):
        send()


def test_a_pulled_folder_has_not_seen_what_came_later(send: Push, client: LoopbackHub, tmp_path: Path) -> None:
    send(STYLE)
    pull(STYLE, local_dir=tmp_path / "pulled", token=client.token())
    client.repo(STYLE).commit({"styleinject.safetensors": b"theirs"})
    with pytest.raises(ConflictError, match="has not seen it yet"):
        send(path=tmp_path / "pulled")


# The command.


@pytest.fixture
def run(client: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_TOKEN", client.token())

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["push", *arguments])

    return invoke


def test_the_command_in_a_folder_needs_the_name_once(run: Callable[..., Any], client: LoopbackHub) -> None:
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    result = run("user/style")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    for words in (
        "user/style: pushed in a new repository",
        "styleinject.safetensors",
        client.repo(STYLE).head(),
        client.url,
        'pipe.load_styleinject_weights("user/style")',
    ):
        assert words in result.stdout
    assert run().stdout.startswith("user/style has all of this already")


def test_a_quiet_command_prints_the_address_alone(run: Callable[..., Any], client: LoopbackHub, folder: Path) -> None:
    result = run(str(folder), STYLE, "-q")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{client.url}/{STYLE}/commit/{client.repo(STYLE).head()}\n"


def test_the_command_takes_a_file_and_a_name(run: Callable[..., Any], client: LoopbackHub, folder: Path) -> None:
    shutil.copy(GOLDEN / "kron.safetensors", folder / "kron.safetensors")
    assert run(".", "user/style").exit_code == 2
    assert run("kron.safetensors", "user/kron").exit_code == 0
    assert run("ink.safetensors", "user/ink").exit_code == 0
    assert sorted(client.repositories) == ["user/ink", "user/kron"]
    assert run("kron.safetensors").stdout.startswith("user/kron has all")


def test_a_folder_wins_over_a_repository_of_its_name(
    run: Callable[..., Any], client: LoopbackHub, folder: Path
) -> None:
    (folder / "user" / "style").mkdir(parents=True)
    shutil.copy(folder / "ink.safetensors", folder / "user" / "style")
    assert run("user/style").exit_code == 2
    assert run("user/style", "user/other").exit_code == 0


def test_scripts_get_json_errors_included(run: Callable[..., Any], client: LoopbackHub, folder: Path) -> None:
    answer = json.loads(run("user/style", "--json", "--tag", "v1", "--private").stdout)
    assert (answer["commit"], answer["tag"], answer["created"]) == (client.repo(STYLE).head(), "v1", True)
    client.repo(STYLE).commit({"x": "y"})
    retrain(folder)
    result = run("--json")
    assert result.exit_code == 13
    assert json.loads(result.stdout)["error"] == "ConflictError"
    assert json.loads(run("--json", "--dry-run", "--force").stdout)["changed"] is True


@pytest.mark.parametrize("arguments", [("",), (".", "")])
def test_an_empty_argument_is_a_usage_error(run: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_help_shows_examples(run: Callable[..., Any]) -> None:
    assert "Examples:" in run("--help").stdout


def test_what_is_left_out_is_listed(run: Callable[..., Any], folder: Path) -> None:
    (folder / ".env").write_text("SECRET=1", encoding="utf-8")
    (folder / "model.ckpt").write_bytes(b"\x80")
    text = run("user/style").stdout
    assert "stays here  1 (.env): hidden" in text
    assert "stays here  1 (model.ckpt): a pickle" in text


def test_the_terminal_sees_no_control_characters_of_a_card(run: Callable[..., Any], folder: Path) -> None:
    (folder / "README.md").write_text("words \x1b[31m red\n", encoding="utf-8")
    text = run("user/style", "--dry-run").stdout
    assert "red" in text
    assert "\x1b" not in text
