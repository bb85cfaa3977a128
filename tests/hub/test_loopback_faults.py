"""Every fault of the loopback Hub, as the real huggingface_hub meets it."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from tests.hub.loopback import HubRepository, LoopbackHub, faults, hostile
from tests.hub.loopback.__main__ import main as by_hand

WEIGHTS = random.Random(2).randbytes(200_000)
ID = "user/style"


@pytest.fixture
def repo(client: LoopbackHub, waits: list[float]) -> HubRepository:
    repo = client.repo(ID)
    repo.commit({"a.json": '{"a": [1, 2, 3]}', "w.safetensors": WEIGHTS})
    return repo


@pytest.fixture
def api(client: LoopbackHub) -> HfApi:
    return HfApi(endpoint=client.url, token=client.token("writer"))


def fetch(name: str = "w.safetensors") -> bytes:
    return Path(hf_hub_download(ID, name)).read_bytes()


def push(api: HfApi) -> None:
    api.create_commit(ID, [CommitOperationAdd("b.json", b"{}")], commit_message="m")


def test_a_status_comes_with_its_headers_and_the_request_is_not_carried_out(
    api: HfApi, client: LoopbackHub, repo: HubRepository
) -> None:
    planned = client.fault(faults.status(503, headers={"Retry-After": "7"}), "POST .*/commit/")
    before = repo.head()
    with pytest.raises(HfHubHTTPError, match="503") as caught:
        push(api)
    assert caught.value.response.headers["retry-after"] == "7"
    assert (planned.met, repo.head()) == (1, before)
    assert [str(exchange) for exchange in client.log.matching(r"\[503\]")] == [
        f"hub POST /api/models/{ID}/commit/main -> 503 [503]"
    ]
    push(api)
    assert repo.files()["b.json"] == b"{}"


def test_an_error_code_is_what_the_client_goes_by(api: HfApi, client: LoopbackHub, repo: HubRepository) -> None:
    client.fault(faults.status(404, error="RepoNotFound"), "GET /api/models")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(ID)
    assert api.model_info(ID).sha == repo.head()


@pytest.mark.parametrize("header", ["Retry-After", "RateLimit"])
def test_a_rate_limit_says_when_to_come_back(
    api: HfApi, client: LoopbackHub, repo: HubRepository, waits: list[float], header: str
) -> None:
    client.fault(faults.rate_limit(11, header=header), "POST .*/preupload")
    push(api)
    assert waits
    assert sum(waits) >= 11 if header == "RateLimit" else sum(waits) > 0
    assert repo.files()["b.json"] == b"{}"


def test_a_delay_is_longer_than_a_short_patience(client: LoopbackHub, repo: HubRepository) -> None:
    client.fault(faults.delay(30), "GET /api/models")
    with pytest.raises(httpx.TimeoutException):
        HfApi(endpoint=client.url).model_info(ID, timeout=0.05)
    assert HfApi(endpoint=client.url).model_info(ID, timeout=5).sha == repo.head()


def test_a_cut_is_resumed_where_it_was(
    client: LoopbackHub, repo: HubRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # it keeps whole chunks only
    client.fault(faults.cut(50_000), "GET /blob/")
    assert fetch() == WEIGHTS
    first, second = client.log.matching("files GET")
    assert (first.answered, second.answered) == (50_000, 150_000)
    assert second.headers["range"] == "bytes=50000-"


def test_a_cut_in_the_middle_of_json_is_an_error(api: HfApi, client: LoopbackHub, repo: HubRepository) -> None:
    client.fault(faults.cut(20), "GET /api/models")
    with pytest.raises(httpx.RemoteProtocolError):
        api.model_info(ID)


def test_a_corrupt_body_has_its_size_and_one_wrong_bit(client: LoopbackHub, repo: HubRepository) -> None:
    client.fault(faults.corrupt(), "GET /blob/")
    got = int.from_bytes(fetch(), "big") ^ int.from_bytes(WEIGHTS, "big")
    assert got.bit_count() == 1


def test_a_lost_answer_was_carried_out_and_a_dropped_request_was_not(
    api: HfApi, client: LoopbackHub, repo: HubRepository
) -> None:
    for fault, applied in ((faults.lost_answer(), True), (faults.dropped(), False)):
        before = repo.head()
        client.fault(fault, "POST .*/commit/")
        with pytest.raises(httpx.RemoteProtocolError):
            push_once(api)
        assert (repo.head() != before) == applied
        assert client.log[-1].status is None


def push_once(api: HfApi) -> None:
    api.create_commit(ID, [CommitOperationAdd("b.json", random.randbytes(9))], commit_message="m")


def test_a_redirect_elsewhere_goes_there_without_the_token(
    client: LoopbackHub, repo: HubRepository, tmp_path: Path
) -> None:
    with LoopbackHub(tmp_path / "elsewhere") as elsewhere:
        address = elsewhere.url.replace("localhost", "127.0.0.1") + "/stolen"
        client.fault(faults.redirect(address), "GET /blob/")
        with pytest.raises(Exception, match="404"):
            hf_hub_download(ID, "w.safetensors", token=client.token("reader"))
        assert [(exchange.path, exchange.token) for exchange in elsewhere.log] == [("/stolen", None)]


def test_headers_are_replaced_and_left_out(client: LoopbackHub, repo: HubRepository) -> None:
    url = f"{client.url}/{ID}/resolve/main/a.json"
    client.fault(faults.headers(x_repo_commit="../../outside", ETag=None))
    answer = get_session().head(url)
    assert answer.headers["X-Repo-Commit"] == "../../outside"
    assert "etag" not in answer.headers
    assert get_session().head(url).headers["x-repo-commit"] == repo.head()


@pytest.mark.parametrize("text", hostile.NOT_HEX)
def test_a_header_may_say_anything(client: LoopbackHub, repo: HubRepository, text: str) -> None:
    client.fault(faults.headers(ETag=text, Content_Length="1000000000000"))
    answer = get_session().head(f"{client.url}/{ID}/resolve/main/a.json")
    assert answer.headers["etag"].encode(answer.headers.encoding).decode() == text
    assert answer.headers["content-length"] == "1000000000000"


def test_a_body_and_its_json_are_replaced(client: LoopbackHub, repo: HubRepository) -> None:
    url = f"{client.url}/api/models/{ID}"
    client.fault(faults.body(b"no json"))
    client.fault(faults.edited(lambda info: info | {"sha": "main"}))
    assert get_session().get(url).text == "no json"
    assert get_session().get(url).json()["sha"] == "main"
    assert get_session().get(url).json()["sha"] == repo.head()


def test_skip_and_times_count_the_requests_that_match(client: LoopbackHub, repo: HubRepository) -> None:
    planned = client.fault(faults.status(500), r"GET /api/models/.*\?a=", skip=2, times=2)
    url = f"{client.url}/api/models/{ID}"
    found = [(get_session().get(url).status_code, get_session().get(f"{url}?a={n}").status_code) for n in range(6)]
    assert found == [(200, 200), (200, 200), (200, 500), (200, 500), (200, 200), (200, 200)]
    assert planned.met == 2


def test_a_fault_without_end_lasts_until_it_is_cleared(client: LoopbackHub, repo: HubRepository) -> None:
    client.fault(faults.status(500), times=None)
    url = f"{client.url}/api/models/{ID}"
    assert [get_session().get(url).status_code for _ in range(5)] == [500] * 5
    client.clear_faults()
    assert get_session().get(url).status_code == 200


@pytest.mark.parametrize("kind", faults.KINDS)
def test_after_any_fault_at_any_request_of_a_download_the_next_try_is_right(
    client: LoopbackHub, repo: HubRepository, kind: str, tmp_path: Path
) -> None:
    """The client itself accepts corrupt bytes; everything else it survives or reports, and the Hub stands as it was."""

    def attempt(number: int) -> bytes:
        return Path(hf_hub_download(ID, "w.safetensors", cache_dir=tmp_path / str(number))).read_bytes()

    for skip in range(2):
        planned = client.fault(faults.KINDS[kind], skip=skip)
        with suppress(HfHubHTTPError, httpx.HTTPError, OSError):
            assert (attempt(skip) == WEIGHTS) == (kind != "corrupt" or skip == 0)
        assert planned.met == 1
        client.clear_faults()
        assert attempt(10 + skip) == WEIGHTS


def test_by_hand_a_fault_of_an_unknown_kind_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        by_hand(["--folder", str(tmp_path / "hub"), "--fault", "lost", "/commit/"])
    assert left.value.code == 2
    assert "no such kind of fault: 'lost'; there are: 500," in capsys.readouterr().err
    assert not (tmp_path / "hub").exists()
