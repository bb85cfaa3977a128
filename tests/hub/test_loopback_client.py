"""The loopback Hub as the real huggingface_hub meets it: accounts, repositories, uploads, listings."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.loopback import LoopbackHub

CARD = b"---\nlicense: mit\ntags: [styleinject]\npipeline_tag: text-to-image\n---\n# Style\n"
WEIGHTS = random.Random(0).randbytes(30_000)
ID = "user/style"
Api = Callable[[str], HfApi]


@pytest.fixture
def api(client: LoopbackHub) -> Api:
    """The client of a token, by the token's name."""
    return lambda name: HfApi(endpoint=client.url, token=client.token(name))


def adding(files: dict[str, bytes]) -> list[CommitOperationAdd]:
    return [CommitOperationAdd(name, content) for name, content in files.items()]


def push(api: HfApi, files: dict[str, bytes], message: str = "m", **options: Any) -> CommitInfo:
    made: CommitInfo = api.create_commit(ID, adding(files), commit_message=message, **options)
    return made


@pytest.mark.skipif("SI_HUB_TEST_CLIENT" not in os.environ, reason="only where the oldest client is tested")
def test_the_oldest_client_is_what_is_being_tested() -> None:
    assert huggingface_hub.__version__.startswith(os.environ["SI_HUB_TEST_CLIENT"])


@pytest.mark.parametrize(
    ("name", "account", "role"),
    [("writer", "user", "write"), ("reader", "user", "read"), ("powerless", "user", "fineGrained"),
     ("other", "other", "write"), ("visitor", "other", "read")],
)  # fmt: skip
def test_a_token_says_whose_it_is_and_what_it_may(api: Api, name: str, account: str, role: str) -> None:
    found = api(name).whoami()
    assert (found["name"], found["auth"]["accessToken"]["role"]) == (account, role)


def test_a_revoked_token_is_401_everywhere(api: Api, client: LoopbackHub) -> None:
    client.repo(ID)
    for call in (api("revoked").whoami, lambda: api("revoked").model_info(ID)):
        with pytest.raises(HfHubHTTPError, match=r"401|Invalid user token"):
            call()
        assert client.log[-1].status == 401


def test_creating_twice_is_409_with_the_url(api: Api, client: LoopbackHub) -> None:
    first = api("writer").create_repo(ID)
    assert api("writer").create_repo(ID, exist_ok=True) == first == f"{client.url}/{ID}"
    with pytest.raises(HfHubHTTPError, match="409"):
        api("writer").create_repo(ID)
    assert client.log[-1].status == 409


def test_members_create_in_their_organisation(api: Api, client: LoopbackHub) -> None:
    api("writer").create_repo("guild/style", private=True)
    assert client.repo("guild/style").state.private


@pytest.mark.parametrize("name", ["reader", "powerless", "other"])
def test_who_may_not_write_creates_and_commits_nothing(api: Api, client: LoopbackHub, name: str) -> None:
    with pytest.raises(HfHubHTTPError, match="403"):
        api(name).create_repo("user/mine")
    before = client.repo(ID).head()
    with pytest.raises(HfHubHTTPError, match="403"):
        push(api(name), {"a.json": b"{}"})
    with pytest.raises(HfHubHTTPError, match="403"):
        api(name).auth_check(ID, write=True)
    api(name).auth_check(ID)
    assert (client.repositories, client.repo(ID).head()) == ([ID], before)


def test_settings_and_deletion(api: Api, client: LoopbackHub) -> None:
    client.repo(ID)
    api("writer").update_repo_settings(ID, private=True, gated="auto")
    assert (client.repo(ID).state.private, client.repo(ID).state.gated) == (True, True)
    api("writer").delete_repo(ID)
    assert client.repositories == []


def test_small_and_large_files_arrive_in_one_commit(api: Api, client: LoopbackHub) -> None:
    files = {"README.md": CARD, "styleinject.safetensors": WEIGHTS, "samples/0.png": WEIGHTS[:20_000], "empty": b""}
    client.repo(ID)
    made = push(api("writer"), files, "first", commit_description="more")
    assert client.repo(ID).files() == files
    assert client.repo(ID).head() == made.oid
    assert client.repo(ID).messages() == ["first", "initial commit"]
    listing = client.repo(ID).listing()
    assert [path for path, file in listing.items() if file.large] == ["styleinject.safetensors", "samples/0.png"]
    uploads = client.log.matching("files PUT")
    assert sorted(exchange.size for exchange in uploads) == [20_000, 30_000]
    assert all("authorization" not in exchange.headers for exchange in uploads)


def test_a_large_file_arrives_in_parts(api: Api, client: LoopbackHub) -> None:
    client.service.chunk_size = 7_000
    client.repo(ID)
    push(api("writer"), {"styleinject.safetensors": WEIGHTS})
    assert client.repo(ID).files() == {"styleinject.safetensors": WEIGHTS}
    assert [exchange.size for exchange in client.log.matching("files PUT")] == [7_000] * 4 + [2_000]
    assert len(client.log.matching("POST /api/complete_multipart")) == 1


def test_pushing_the_same_again_sends_nothing_and_makes_no_commit(api: Api, client: LoopbackHub) -> None:
    files = {"README.md": CARD, "styleinject.safetensors": WEIGHTS}
    client.repo(ID)
    first = push(api("writer"), files).oid
    client.log.clear()
    assert push(api("writer"), files).oid == first
    assert client.log.matching("PUT|/commit/") == []


def test_a_file_that_is_held_elsewhere_is_not_sent_again(api: Api, client: LoopbackHub) -> None:
    client.repo("other/style").commit({"theirs.safetensors": WEIGHTS})
    client.repo(ID)
    push(api("writer"), {"ours.safetensors": WEIGHTS})
    assert client.log.matching("PUT") == []
    assert client.repo(ID).files() == {"ours.safetensors": WEIGHTS}


def test_files_and_folders_are_deleted(api: Api, client: LoopbackHub) -> None:
    client.repo(ID).commit({"a.json": "{}", "b.json": "{}", "samples/0.png": b"0", "samples/deep/1.png": b"1"})
    gone = [CommitOperationDelete("a.json"), CommitOperationDelete("samples/", is_folder=True)]
    api("writer").create_commit(ID, gone, commit_message="less")
    assert client.repo(ID).files() == {"b.json": b"{}"}


def test_a_card_that_is_no_yaml_is_refused(api: Api, client: LoopbackHub) -> None:
    client.repo(ID)
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        push(api("writer"), {"README.md": b"---\nlicense: [mit\n---\n"})
    assert client.repo(ID).files() == {}


@pytest.mark.parametrize("path", ["samples//a.json", "a/./b.json", ".git/config"])
def test_a_path_that_git_could_not_hold_is_refused(api: Api, client: LoopbackHub, path: str) -> None:
    client.repo(ID)
    with pytest.raises((BadRequestError, ValueError), match=r"Invalid path|Invalid `path_in_repo`|cannot update files"):
        push(api("writer"), {path: b"{}"})
    assert client.repo(ID).files() == {}


def test_a_stale_parent_is_412_and_changes_nothing(api: Api, client: LoopbackHub) -> None:
    stale = client.repo(ID).head()
    head = client.repo(ID).commit({"a.json": "1"})
    with pytest.raises(HfHubHTTPError, match="412"):
        push(api("writer"), {"a.json": b"2"}, parent_commit=stale)
    assert client.repo(ID).head() == head
    push(api("writer"), {"a.json": b"2"}, parent_commit=head)
    assert client.repo(ID).files() == {"a.json": b"2"}


def test_anyone_may_propose_and_the_proposal_stands_apart(api: Api, client: LoopbackHub) -> None:
    repo = client.repo(ID)
    before = repo.head()
    made = push(api("other"), {"a.json": b"1"}, create_pr=True)
    assert made.pr_revision == "refs/pr/1"
    assert made.pr_url == f"{client.url}/{ID}/discussions/1"
    push(api("writer"), {"b.json": b"2"}, revision="refs/pr/1")
    assert push(api("other"), {"c.json": b"3"}, create_pr=True).pr_revision == "refs/pr/2"
    assert repo.head() == before
    assert repo.files("refs/pr/1") == {"a.json": b"1", "b.json": b"2"}
    assert repo.files("refs/pr/2") == {"c.json": b"3"}
    assert api("reader").model_info(ID, revision="refs/pr/1").sha == repo.pulls["refs/pr/1"]
    refs = api("reader").list_repo_refs(ID, include_pull_requests=True)
    assert {ref.ref for ref in refs.pull_requests or []} == {"refs/pr/1", "refs/pr/2"}


def test_a_merged_proposal_is_on_main(api: Api, client: LoopbackHub) -> None:
    client.repo(ID)
    push(api("other"), {"a.json": b"1"}, create_pr=True)
    push(api("other"), {"b.json": b"2"}, create_pr=True)
    push(api("writer"), {"c.json": b"3"}, revision="refs/pr/1")
    assert api("writer").get_discussion_details(ID, 1).status == "open"
    api("writer").merge_pull_request(ID, 1)
    assert api("writer").get_discussion_details(ID, 1).status == "merged"
    assert client.repo(ID).files() == {"a.json": b"1", "c.json": b"3"}
    for number in (1, 2):  # merged already; no longer on top of main
        with pytest.raises(HfHubHTTPError, match="409"):
            api("writer").merge_pull_request(ID, number)


def test_a_proposal_is_made_to_a_branch_by_who_may_write_somewhere(api: Api, client: LoopbackHub) -> None:
    client.repo(ID)
    push(api("other"), {"a.json": b"1"}, create_pr=True)
    with pytest.raises(HfHubHTTPError, match="403"):
        push(api("visitor"), {"b.json": b"1"}, create_pr=True)
    with pytest.raises(BadRequestError):
        push(api("other"), {"b.json": b"1"}, create_pr=True, revision="refs/pr/1")
    assert list(client.repo(ID).pulls) == ["refs/pr/1"]


@pytest.mark.parametrize("name", ["refs/heads/x", "a b", "a..b", "x~1", "x^", "x:y", "x.lock", "x/", "a\\b", "\x1b"])
def test_a_name_that_git_would_not_take_is_refused(api: Api, client: LoopbackHub, name: str) -> None:
    client.repo(ID)
    with pytest.raises(BadRequestError):
        api("writer").create_tag(ID, tag=name)
    with pytest.raises(BadRequestError):
        api("writer").create_branch(ID, branch=name)
    assert (client.repo(ID).tags, list(client.repo(ID).branches)) == ({}, ["main"])


def test_main_is_not_deleted(api: Api, client: LoopbackHub) -> None:
    client.repo(ID)
    with pytest.raises(HfHubHTTPError, match="403"):
        api("writer").delete_branch(ID, branch="main")
    assert list(client.repo(ID).branches) == ["main"]


def test_tags_and_branches(api: Api, client: LoopbackHub) -> None:
    repo = client.repo(ID)
    first = repo.commit({"a.json": "1"})
    api("writer").create_tag(ID, tag="v1")
    api("writer").create_branch(ID, branch="dev/next", revision="v1")
    push(api("writer"), {"a.json": b"2"}, revision="dev/next")
    assert (repo.tags, repo.head()) == ({"v1": first}, first)
    assert repo.files("dev/next") == {"a.json": b"2"}
    with pytest.raises(HfHubHTTPError, match="409"):
        api("writer").create_tag(ID, tag="v1")
    with pytest.raises(HfHubHTTPError, match="409"):
        api("writer").create_branch(ID, branch="main")
    refs = api("reader").list_repo_refs(ID)
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
    assert {ref.name for ref in refs.branches} == {"main", "dev/next"}
    api("writer").delete_tag(ID, tag="v1")
    api("writer").delete_branch(ID, branch="dev/next")
    assert (repo.tags, list(repo.branches)) == ({}, ["main"])


def test_a_missing_branch_is_named(api: Api, client: LoopbackHub) -> None:
    client.repo(ID)
    with pytest.raises(RevisionNotFoundError):
        push(api("writer"), {"a.json": b"1"}, revision="nope")
    with pytest.raises(RevisionNotFoundError):
        api("writer").create_tag(ID, tag="v1", revision="nope")


def test_a_private_repository_is_there_for_its_own_only(api: Api, client: LoopbackHub) -> None:
    head = client.repo(ID, private=True).head()
    assert api("reader").model_info(ID).sha == head
    for stranger in (api("other"), api("powerless"), HfApi(endpoint=client.url, token=False)):
        with pytest.raises(RepositoryNotFoundError):
            stranger.model_info(ID)


def test_a_gated_repository_shows_its_listing_and_keeps_its_files(api: Api, client: LoopbackHub) -> None:
    client.repo(ID, gated=True).commit({"a.json": "{}"})
    assert api("other").model_info(ID).gated == "auto"
    assert "a.json" in api("other").list_repo_files(ID)
    for stranger in (api("other"), HfApi(endpoint=client.url, token=False)):
        with pytest.raises(GatedRepoError):
            stranger.hf_hub_download(ID, "a.json")
        with pytest.raises(GatedRepoError):
            stranger.auth_check(ID)
    client.repo(ID).admit("other")
    assert Path(api("other").hf_hub_download(ID, "a.json")).read_bytes() == b"{}"


def test_the_info_holds_ids_and_sizes(api: Api, client: LoopbackHub) -> None:
    client.repo(ID).commit({"README.md": CARD, "styleinject.safetensors": WEIGHTS})
    info = api("reader").model_info(ID, files_metadata=True)
    card, weights = (next(file for file in info.siblings or [] if file.rfilename.startswith(s)) for s in ("R", "s"))
    assert (info.sha, info.private, info.gated) == (client.repo(ID).head(), False, False)
    assert (info.pipeline_tag, info.tags) == ("text-to-image", ["styleinject"])
    assert info.card_data is not None
    assert info.card_data["license"] == "mit"
    assert card.blob_id == hashlib.sha1(b"blob %d\0" % len(CARD) + CARD).hexdigest()
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (card.size, weights.size, weights.lfs.size, card.lfs) == (len(CARD), 30_000, 30_000, None)


def test_a_long_listing_comes_page_by_page(api: Api, client: LoopbackHub) -> None:
    client.service.page_size = 7
    names = sorted(f"samples/{n % 3}/{n:02} ä&?=.json" for n in range(20))
    client.repo(ID).commit(dict.fromkeys(names, "{}"))
    rows = list(api("reader").list_repo_tree(ID, recursive=True))
    folders = ["samples", "samples/0", "samples/1", "samples/2"]
    assert sorted(row.path for row in rows) == sorted([".gitattributes", *folders, *names])
    assert len(client.log.matching("GET .*/tree/")) == 4


def test_a_listing_without_depth_shows_one_folder(api: Api, client: LoopbackHub) -> None:
    client.repo(ID).commit({"a.json": "1", "samples/0.png": b"0", "samples/deep/1.png": b"1"})
    assert [row.path for row in api("reader").list_repo_tree(ID, "samples")] == ["samples/0.png", "samples/deep"]
    assert [row.path for row in api("reader").list_repo_tree(ID)] == [".gitattributes", "a.json", "samples"]
    assert [row.path for row in api("reader").get_paths_info(ID, ["a.json", "samples", "nope"])] == [
        "a.json",
        "samples",
    ]


def test_the_history_is_newest_first(api: Api, client: LoopbackHub) -> None:
    shas = [client.repo(ID).commit({"a.json": str(n)}, f"number {n}") for n in range(3)]
    found = api("reader").list_repo_commits(ID)
    assert [commit.commit_id for commit in found[:3]] == shas[::-1] == client.repo(ID).commits()[:3]
    assert [commit.title for commit in found] == ["number 2", "number 1", "number 0", "initial commit"]
