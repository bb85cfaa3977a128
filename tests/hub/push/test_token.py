"""The token: in no output, log, exception, file or request to the file server, whatever is loud and goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.loopback import LoopbackHub, faults
from tests.places import GOLDEN

#: Everything that can be made to talk does, and every error shows its whole traceback, contexts and all.
LOUD = """
import logging, sys, traceback
logging.basicConfig(level=1, stream=sys.stderr)
from huggingface_hub.utils import logging as hub_logging
hub_logging.set_verbosity_debug()
for name in ("httpx", "httpx2", "httpcore", "httpcore2", "hpack", "huggingface_hub", "si_hub"):
    logging.getLogger(name).setLevel(1)
import time
import si_hub.hub.client
time.sleep, si_hub.hub.client.WAITS = (lambda seconds: None), (0.01,) * 2
from si_hub.hub.push.pushing import push
try:
    result = push(".", sys.argv[1], tag="v1", token=sys.argv[2] if len(sys.argv) > 2 else None)
    print(result, result.as_text(), result.as_dict())
except Exception as error:
    print(repr(error), error.as_dict())
    print("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
"""
FAULTS = {
    "none": None,
    "refused": (faults.status(403), "/commit/"),
    "conflict": (faults.status(412), "/commit/"),
    "trouble": (faults.status(500), "/commit/"),
    "lost": (faults.dropped(), "/preupload/"),
    "cut": (faults.cut(5), "/objects/batch"),
    "storage": (faults.status(403), "PUT "),
    "corrupt": (faults.corrupt(), "/refs"),
    "limit": (faults.rate_limit(0), "/repos/create"),
}


def everything_under(*folders: Path) -> bytes:
    """The bytes of all files, and their names."""
    found = [path for folder in folders for path in folder.rglob("*")]
    return b"\n".join(os.fsencode(path) + b"\n" + (path.read_bytes() if path.is_file() else b"") for path in found)


EVERYDAY = [("none", "environment"), ("none", "argument"), ("conflict", "environment"), ("storage", "argument")]
RARE = [(fault, "environment") for fault in FAULTS if (fault, "environment") not in EVERYDAY]


@pytest.mark.parametrize(
    ("fault", "given"), [*EVERYDAY, *(pytest.param(*case, marks=pytest.mark.slow) for case in RARE)]
)
def test_the_token_is_nowhere(hub: LoopbackHub, home: Path, tmp_path: Path, fault: str, given: str) -> None:
    folder = tmp_path / "ink"
    folder.mkdir()
    shutil.copy(GOLDEN / "one_branch.safetensors", folder / "ink.safetensors")
    if planned := FAULTS[fault]:
        hub.fault(planned[0], on=planned[1], times=None)
    loud = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "HTTPX_LOG_LEVEL": "trace", "PYTHONDEVMODE": ""}
    environment = hub.environment(home, "writer" if given == "environment" else None) | loud
    secret = hub.token("writer")
    command = [sys.executable, "-c", LOUD, "user/style", *([secret] if given == "argument" else [])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=120, check=True)
    assert b"DEBUG" in done.stderr
    assert b"commit" in done.stdout or b"Error" in done.stdout
    for place in (done.stdout, done.stderr, everything_under(folder, home)):
        assert secret.encode() not in place
    to_files = [exchange for exchange in hub.log if exchange.server == "files"]
    for exchange in to_files:
        assert secret not in f"{exchange.target} {exchange.headers}"
        assert secret.encode() not in exchange.body
    assert to_files or fault not in ("none", "storage")
    assert any(exchange.token == secret for exchange in hub.log)
