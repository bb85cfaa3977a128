"""A pipe that holds few characters gets all of a text, and JSON that is the same data."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from si_hub.report.streams import escape_unprintable
from tests.commands import write_kohya

TITLE = "墨 → ink é 🎨"


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", TITLE.encode()), ("cp1252", b"\\u58a8 \\u2192 ink \xe9 \\ud83c\\udfa8"),
     ("ascii", b"\\u58a8 \\u2192 ink \\u00e9 \\ud83c\\udfa8")],
)  # fmt: skip
def test_what_an_encoding_lacks_is_escaped_as_in_json(encoding: str, written: bytes) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    escape_unprintable([stream, None])
    stream.write(TITLE)
    stream.flush()
    assert raw.getvalue() == written
    assert json.loads(b'"' + written.decode(encoding).encode() + b'"') == TITLE


def test_a_command_in_a_console_of_windows_says_all_of_it(tmp_path: Path) -> None:
    file = write_kohya(tmp_path / "lora.safetensors")
    save_file(load_file(file), file, metadata={"ss_output_name": TITLE})
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "si_hub", "inspect", str(file), *more], capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode("cp1252")
        said = done.stdout.decode("cp1252")
        assert "\\u58a8 \\u2192 ink é" in said
        if more:
            assert json.loads(said)["metadata"]["ss_output_name"] == TITLE
