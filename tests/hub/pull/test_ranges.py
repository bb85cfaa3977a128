"""Looking at a repository: headers by ranged reads, and never the data."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from si_hub import conversion
from si_hub.errors import (
    HeaderTooLarge,
    SiHubError,
    TruncatedFile,
    UnsupportedFamily,
)
from si_hub.format import read
from si_hub.inspection import Inspection, inspect
from tests.hub.loopback import LoopbackHub, faults
from tests.hub.pull.world import OURS, STYLE, kohya, peft


def one(reference: str, **options: Any) -> Inspection:
    found = inspect(reference, **options)
    assert isinstance(found, Inspection)
    return found


def rest(found: Inspection) -> dict[str, Any]:
    return {name: value for name, value in found.as_dict().items() if name not in ("path", "problem")}


def test_one_ranged_read_shows_what_the_whole_file_would(style: LoopbackHub, tmp_path: Path) -> None:
    found = one(f"{STYLE}@main")
    assert str(found.path) == f"{STYLE}@{style.repo(STYLE).head()}/styleinject.safetensors"
    (tmp_path / "x.safetensors").write_bytes(OURS)
    assert rest(found) == rest(one(str(tmp_path / "x.safetensors")))
    [read_there] = [entry for entry in style.log if entry.server == "files"]
    assert read_there.headers["range"] == f"bytes=0-{len(OURS) - 1}"
    assert len(style.log) == 3


def test_of_a_large_file_only_the_header_is_read(client: LoopbackHub, tmp_path: Path, home: Path) -> None:
    """The alphas of a foreign file lie behind its weights: they are not read, and that is said."""
    large = kohya(wide=2000)
    client.repo("user/lora").commit({"lora.safetensors": large})
    (tmp_path / "x.safetensors").write_bytes(large)
    found, local = one("user/lora"), one(str(tmp_path / "x.safetensors"))
    assert sum(entry.answered for entry in client.log if entry.server == "files") <= 100_000
    assert (found.kind, found.family, found.base, found.size) == ("adapter", "lora", "sd15", len(large))
    assert found.parts["unet"].ranks == local.parts["unet"].ranks == {2000: 1}
    assert local.parts["unet"].alphas == {"2": 1}
    assert found.parts["unet"].alphas in ({"2": 1}, {"not read": 1})
    assert not list(home.rglob("*.safetensors"))


def test_alphas_behind_the_weights_are_said_not_to_be_read(client: LoopbackHub) -> None:
    data = kohya(wide=400)
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: name.endswith("alpha"))
    moved, at = [], 0
    for name in names:
        begin, end = header[name]["data_offsets"]
        moved.append(body[begin:end])
        header[name]["data_offsets"] = [at, at := at + end - begin]
    text = json.dumps(header).encode()
    client.repo("user/lora").commit({"l.safetensors": struct.pack("<Q", len(text)) + text + b"".join(moved)})
    found = one("user/lora")
    assert found.parts["unet"].alphas == {"not read": 1}
    assert "rank 400, alpha not read" in found.as_text()
    assert found.problem == {}


def test_a_header_longer_than_one_read_takes_a_second(client: LoopbackHub) -> None:
    metadata = json.dumps({"__metadata__": {"note": "x" * 150_000}}).encode()
    client.repo(STYLE).commit({"a.safetensors": struct.pack("<Q", len(metadata)) + metadata})
    assert one(STYLE).metadata == {"note": "x" * 150_000}
    there = [entry.headers["range"] for entry in client.log if entry.server == "files"]
    assert there == ["bytes=0-99999", f"bytes=100000-{8 + len(metadata) - 1}"]


def test_a_header_of_thirty_megabytes_is_refused_after_the_first_read(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"a.safetensors": struct.pack("<Q", 30_000_000) + b"{" + bytes(200_000)})
    listed = {"rfilename": "a.safetensors", "size": 95_000_000, "blobId": "0" * 40}
    lfs = {"lfs": {"size": 95_000_000, "sha256": "0" * 64, "pointerSize": 1}}
    client.fault(faults.edited(lambda info: info | {"siblings": [listed | lfs]}), on="/api/models/")
    client.fault(faults.headers(Content_Range="bytes 0-99999/95000000"), on="/blob/")
    with pytest.raises(HeaderTooLarge, match=r"a\.safetensors: the header is too large to be read from afar"):
        inspect(STYLE)
    assert sum(entry.answered for entry in client.log if entry.server == "files") == 100_000


def test_a_server_that_knows_no_ranges_is_read_no_further_than_needed(client: LoopbackHub) -> None:
    large = kohya(wide=8000)
    client.repo(STYLE).commit({"a.safetensors": large})
    whole = faults.Fault("whole", change=lambda answer: type(answer)(200, {}, large))
    client.fault(whole, on="/blob/")
    found = one(STYLE)
    assert (found.family, found.size) == ("lora", len(large))
    [entry] = [entry for entry in client.log if entry.server == "files"]
    assert entry.status == 200


@pytest.mark.parametrize("sent", ["bytes 5-99/200", f"bytes 5-99/{len(OURS)}", "bytes 0-99/1", "nonsense", None])
def test_another_range_than_asked_for_is_refused(sent: str | None, style: LoopbackHub) -> None:
    style.fault(faults.headers(Content_Range=sent), on="/blob/", times=None)
    with pytest.raises(SiHubError, match=r"other bytes than asked for|another size than listed"):
        inspect(STYLE)


def test_a_file_that_ends_early_is_refused(style: LoopbackHub) -> None:
    style.fault(faults.body(OURS[:50]), on="/blob/", times=None)
    with pytest.raises(TruncatedFile, match=r"styleinject\.safetensors: ends before the bytes asked for"):
        inspect(STYLE)


@pytest.mark.parametrize("fault", faults.KINDS)
def test_a_fault_at_any_request_is_survived_or_said(fault: str, style: LoopbackHub) -> None:
    expected = rest(one(STYLE))
    for number in range(3):
        style.fault(faults.KINDS[fault], skip=number)
        try:
            found = rest(one(STYLE))
        except SiHubError:
            assert fault == "corrupt"
        else:
            assert found == expected or fault == "corrupt"
        style.clear_faults()


def test_what_cannot_be_converted_is_a_problem_of_the_repository_s_file(client: LoopbackHub) -> None:
    client.repo(STYLE).commit({"a.safetensors": kohya().replace(b"lora_unet_down", b"lora_unet_dawn")})
    assert str(one(STYLE).problem["file"]).startswith(f"{STYLE}@")


def test_a_path_comes_before_a_repository(style: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / STYLE).mkdir(parents=True)
    (tmp_path / STYLE / "x.safetensors").write_bytes(kohya())
    found = inspect(STYLE)
    assert isinstance(found, list)
    assert found[0].family == "lora"
    assert len(style.log) == 0


# Converting a repository.


def test_a_repository_s_lora_is_converted_exactly(
    client: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anything.safetensors").write_bytes(kohya())
    client.repo("user/lora").commit({"anything.safetensors": tmp_path / "anything.safetensors", "x.bin": b"1"})
    done = conversion.convert("user/lora")
    assert done.path == Path("lora.styleinject.safetensors")
    assert str(done.source) == f"user/lora@{client.repo('user/lora').head()}/anything.safetensors"
    local = conversion.convert("anything.safetensors")
    assert done.path.read_bytes() == local.path.read_bytes()
    assert read(done.path).about["provenance"]["source"]["name"] == "anything.safetensors"


def test_a_peft_repository_is_converted_with_its_scale(client: LoopbackHub, tmp_path: Path) -> None:
    client.repo("user/peft").commit({f"unet/{name}": data for name, data in peft().items()})
    done = conversion.convert("user/peft@main", tmp_path, base="sd15")
    assert done.path == tmp_path / "peft.styleinject.safetensors"
    assert done.alphas == {"8": 1}


def test_a_repository_is_not_fetched_where_the_output_is_in_the_way(client: LoopbackHub, tmp_path: Path) -> None:
    client.repo("user/lora").commit({"a.safetensors": kohya()})
    (tmp_path / "lora.styleinject.safetensors").touch()
    with pytest.raises(SiHubError, match="already exists"):
        conversion.convert("user/lora", tmp_path)
    assert len(client.log) == 0


def test_of_several_loras_one_is_named(client: LoopbackHub, tmp_path: Path) -> None:
    client.repo("user/lora").commit({"a.safetensors": kohya(), "b.safetensors": kohya(alpha=4.0)})
    with pytest.raises(SiHubError, match=r"several adapters.*weight_name="):
        conversion.convert("user/lora", tmp_path)
    assert conversion.convert("user/lora", tmp_path, weight_name="b.safetensors").alphas == {"4": 1}
    with pytest.raises(SiHubError, match="names a file of a repository"):
        conversion.convert(tmp_path, weight_name="b.safetensors")


def test_our_own_adapter_needs_no_conversion(style: LoopbackHub, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFamily, match=rf"{STYLE}@\w+/styleinject\.safetensors: is a StyleInject adapter"):
        conversion.convert(STYLE, tmp_path)
    with pytest.raises(UnsupportedFamily, match="is a StyleInject adapter already"):
        conversion.convert(STYLE, tmp_path, weight_name="styleinject.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))
