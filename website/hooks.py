"""What mkdocs is told besides mkdocs.yml: links that leave the pages, and the page of all commands.

A page may link to any file of the repository, as it does on GitHub: ``../examples/train_loop.py``. In the site such a
link leads to the repository; one to a file that is not there is a warning, and so, built strictly, an error.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: What ``python -m website.commands`` writes.
COMMANDS = ROOT / "build" / "commands.md"
LOG = logging.getLogger("mkdocs.hooks.website")
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def repository() -> str:
    """The repository's address: pyproject.toml's."""
    found = re.search(r'^Repository = "([^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "pyproject.toml names no Repository"
    return found[1]


def on_config(config: Any) -> Any:
    # Not as repo_url: for that the theme asks another host about stars, on every page.
    config["extra"]["social"] = [{"icon": "fontawesome/brands/git-alt", "link": repository(), "name": "The repository"}]
    config["site_url"] = os.environ.get("SITE_URL") or config["site_url"]
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    text = COMMANDS.read_text(encoding="utf-8")
    files.append(File.generated(config, "reference/commands.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        if ":" in link[2] or target == "docs" or target.startswith("docs/"):
            return link[0]
        if target.startswith("..") or not (ROOT / target).exists():
            LOG.warning("%s links to %s, which is not there", page.file.src_uri, link[2])
            return link[0]
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{link[1]}{repository()}/{kind}/main/{target}{link[3] or ''}{link[4]}"

    return _LINK.sub(lead, markdown)
