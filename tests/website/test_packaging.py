"""What the package says of itself, and what a shell completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from si_hub import __version__
from tests.places import ROOT
from website.hooks import repository
from website.oldest import LIBRARIES, oldest

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def extra(name: str) -> set[str]:
    [listed] = re.findall(rf"^{name} = \[(.*?)\]\n", PROJECT, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'"([^"]+)"', listed))


def test_all_is_every_extra_that_a_user_has_a_use_for() -> None:
    names = re.findall(
        r"^([a-z]+) = \[", PROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0], re.M
    )
    wanted = set().union(*(extra(name) for name in names if name not in {"all", "docs", "test"}))
    assert extra("all") == wanted


def test_the_supported_systems_and_pythons_are_named() -> None:
    for system in ("MacOS", "Microsoft :: Windows", "POSIX :: Linux"):
        assert f'"Operating System :: {system}"' in PROJECT
    assert re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT) == [
        "3.10",
        "3.11",
        "3.12",
        "3.13",
        "3.14",
    ]


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["repository-code"]) == (__version__, repository())
    assert cited["references"][0]["url"] == "https://arxiv.org/abs/2401.13942"


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.stem)
def test_a_workflow_runs_targets_and_modules_that_there_are(workflow: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = "\n".join(str(step.get("run", "")) for step in steps(workflow))
    assert set(re.findall(r"\bmake ([a-z-]+)", told)) <= targets
    for module in re.findall(r"-m ((?:website|tests)\.\w+)", told):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


def test_no_workflow_may_write_but_where_a_job_says_so() -> None:
    for workflow in WORKFLOWS:
        told = yaml.safe_load(workflow.read_text(encoding="utf-8"))
        assert told["permissions"] == {"contents": "read"}, workflow.name
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}


def test_the_suite_runs_on_three_systems_with_the_oldest_and_the_newest() -> None:
    told = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    matrix = told["jobs"]["suite"]["strategy"]["matrix"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "windows", "macos"}
    said = {row["python"]: row["dependencies"] for row in matrix["include"]}
    assert said == {"3.10": "oldest", "3.14": "newest"}
    assert [line.partition("==")[0] for line in oldest()] == list(LIBRARIES)


def complete(words: str, at: int) -> str:
    """What bash is told to complete a line by."""
    environment = {**os.environ, "_SI_HUB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    done = subprocess.run(
        [sys.executable, "-c", "from si_hub.cli import main; main(prog_name='si-hub')"],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.stdout


def test_a_shell_completes_commands_and_options() -> None:
    assert complete("si-hub conv", 1).split() == ["plain,convert"]
    assert {"plain,--base", "plain,--check"} <= set(complete("si-hub convert --", 2).split())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_what_a_shell_is_told_to_read_is_there(shell: str) -> None:
    """bash's script asks bash for its version first, and so needs it."""
    done = subprocess.run(
        [sys.executable, "-c", "from si_hub.cli import main; main(prog_name='si-hub')"],
        env={**os.environ, "_SI_HUB_COMPLETE": f"{shell}_source"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"_SI_HUB_COMPLETE={shell}_complete" in done.stdout
    assert f"_SI_HUB_COMPLETE={shell}_source" in (ROOT / "docs" / "INSTALL.md").read_text(encoding="utf-8")
