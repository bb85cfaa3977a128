"""What an operating system says of a path, told in our words."""

from __future__ import annotations

from pathlib import Path

import pytest

import si_hub
from si_hub.errors import FileAccessError, MissingFile
from si_hub.storage.access import tell_access_errors


def test_a_path_s_error_is_ours_and_any_other_its_own(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="nothing: no such file or folder"), tell_access_errors():
        (tmp_path / "nothing").read_bytes()
    with pytest.raises(FileAccessError, match="Is a directory"), tell_access_errors():
        tmp_path.read_bytes()
    with pytest.raises(ConnectionError) as caught, tell_access_errors():
        raise ConnectionError("no route")
    assert type(caught.value) is ConnectionError


@pytest.mark.parametrize("call", [si_hub.inspect, si_hub.convert])
def test_a_name_longer_than_any_file_s_is_an_error_of_ours(call: object, tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="File name too long"):
        call(tmp_path / ("x" * 300 + ".safetensors"))  # type: ignore[operator]
