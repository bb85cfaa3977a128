"""Whatever goes wrong at any request of a push: one commit with all of it or none, and the next push succeeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from si_hub import format
from si_hub.errors import NetworkError, RateLimited, SiHubError
from si_hub.hub.push.memory import read_memory
from si_hub.hub.push.pushing import push
from si_hub.hub.push.result import Pushed
from tests.hub.loopback import LoopbackHub, faults
from tests.places import GOLDEN
from tests.systems import EVERY_WAY

STYLE = "user/style"
KINDS = {**faults.KINDS, "late": faults.delay(0.4)}


@dataclass(frozen=True)
class Scene:
    """A push, and what has to be there before it.

    Attributes:
        options: of the push.
        pushed: whether the folder has pushed another adapter before.
        revision: where the commit is to be found.
        before: prepares the repository.
    """

    options: dict[str, Any]
    pushed: bool
    revision: str = "main"


SCENES = {
    "new": Scene({"repo_id": STYLE}, False),
    "again": Scene({"tag": "v1"}, True),
    "branch": Scene({"revision": "dev"}, True, "dev"),
    "request": Scene({"create_pr": True}, True, "refs/pr/1"),
}


class Stage:
    """A Hub and a folder, set up anew as often as wanted.

    Args:
        hub: whose repositories are made for each run.
        folder: where the adapter's folder is made.
    """

    def __init__(self, hub: LoopbackHub, folder: Path) -> None:
        self.hub, self.root, self.runs = hub, folder, 0

    def set(self, scene: Scene) -> None:
        """A repository as the scene wants it, and a folder that remembers it."""
        self.settle()
        self.scene, self.runs = scene, self.runs + 1
        self.folder = self.root / str(self.runs)
        (self.folder / "samples").mkdir(parents=True)
        (self.folder / "samples" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (self.folder / "README.md").write_text("# Mine\n", encoding="utf-8")
        for repo_id in self.hub.repositories:
            self.hub.repo(repo_id).delete()
        if scene.pushed:
            self.train("one_branch")
            self.push(repo_id=STYLE)
        self.train("three_branches")
        self.before = self.commits()
        self.adapter = (self.folder / "ink.safetensors").read_bytes()
        self.hub.log.clear()

    def settle(self) -> None:
        """Wait for what a push has given up and the Hub is still at."""
        from huggingface_hub import close_session

        close_session()
        self.hub.drain()

    def train(self, name: str) -> None:
        """An adapter whose bytes no run before has sent."""
        adapter = format.read(GOLDEN / f"{name}.safetensors")
        adapter.about["title"] = f"Run {self.runs}"
        format.write(adapter, self.folder / "ink.safetensors", overwrite=True)

    def push(self, **options: Any) -> Pushed:
        return push(self.folder, token=self.hub.token(), bars=False, **options)

    def commits(self) -> dict[str, list[str]]:
        """The commits of every branch and pull request."""
        if STYLE not in self.hub.repositories:
            return {}
        repo = self.hub.repo(STYLE)
        return {name: repo.commits(name) for name in (*repo.branches, *repo.pulls)}

    def is_complete(self) -> bool:
        """Whether the commit is there, with everything in it; if not, all is as it was. Anything else fails."""
        assert (self.folder / "ink.safetensors").read_bytes() == self.adapter
        now, revision = self.commits(), self.scene.revision
        start = self.before.get(revision) or self.before.get("main") or now.get(revision, [])[-1:]
        for name, commits in now.items():
            expected = start if name == revision else self.before.get(name, commits[-1:])
            assert commits in (expected, [commits[0], *expected] if name == revision else expected), name
        if revision not in now or now[revision] == start:
            return False
        files = self.hub.repo(STYLE).files(revision)
        assert sorted(files) == ["README.md", "config.json", "samples/1.png", "styleinject.safetensors"]
        assert files["styleinject.safetensors"] == self.adapter
        assert b"# Mine\n" in files["README.md"]
        assert b"3 branches" in files["README.md"]
        return True

    def check(self, attempt: Callable[[], Pushed]) -> SiHubError | None:
        """A push that may fail, and one that must not."""
        error: SiHubError | None = None
        try:
            result = attempt()
        except SiHubError as raised:
            error = raised
            self.settle()
            self.is_complete()
        else:
            self.settle()
            assert self.is_complete()
            assert result.commit == self.commits()[self.scene.revision][0]
        self.hub.clear_faults()
        self.push(**self.scene.options)
        assert self.is_complete()
        tag = self.scene.options.get("tag")
        assert self.hub.repo(STYLE).tags == ({tag: self.hub.repo(STYLE).head()} if tag else {})
        assert read_memory(self.folder).pending == {}
        return error


@pytest.fixture
def stage(client: LoopbackHub, tmp_path: Path, waits: list[float]) -> Iterator[Stage]:
    from huggingface_hub import close_session, set_client_factory
    from huggingface_hub.utils import httpx
    from huggingface_hub.utils._http import default_client_factory, hf_request_event_hook

    def impatient() -> Any:
        return httpx.Client(event_hooks={"request": [hf_request_event_hook]}, follow_redirects=True, timeout=0.25)

    set_client_factory(impatient)
    yield Stage(client, tmp_path)
    set_client_factory(default_client_factory)
    close_session()


def requests_of(stage: Stage, scene: Scene) -> list[str]:
    """The requests of an undisturbed push."""
    stage.set(scene)
    stage.push(**scene.options)
    assert stage.is_complete()
    return [f"{exchange.method} {exchange.path}" for exchange in stage.hub.log]


def may_fail(kind: str, name: str, request: str) -> bool:
    """Whether a push may end with an error: a late pull request is not asked for twice, and nobody waits here."""
    return kind == "corrupt" or (kind == "late" and name == "request" and "/commit/" in request)


@pytest.mark.parametrize("name", SCENES)
def test_a_fault_at_any_request_is_survived_or_leaves_all_as_it_was(stage: Stage, name: str) -> None:
    """Another kind at each request; the slow test has all of them."""
    requests, kinds = requests_of(stage, SCENES[name]), list(KINDS)
    for number in range(len(requests)):
        kind = kinds[(number + 3 * list(SCENES).index(name)) % len(kinds)]
        stage.set(SCENES[name])
        planned = stage.hub.fault(KINDS[kind], skip=number)
        error = stage.check(lambda: stage.push(**SCENES[name].options))
        assert planned.met == 1
        assert error is None or may_fail(kind, name, requests[number]), (requests[number], kind, error)


def often(kind: str, number: int) -> list[int | None]:
    """How often a fault is met at a request, once and for good; one of them in turn where not every one is wanted."""
    both: list[int | None] = [1, None]
    return both if EVERY_WAY else [both[(number + list(KINDS).index(kind)) % 2]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCENES)
def test_every_fault_at_every_request_once_or_for_good(stage: Stage, name: str, kind: str) -> None:
    requests = requests_of(stage, SCENES[name])
    for number in range(len(requests)):
        for times in often(kind, number):
            stage.set(SCENES[name])
            planned = stage.hub.fault(KINDS[kind], skip=number, times=times)
            error = stage.check(lambda: stage.push(**SCENES[name].options))
            assert planned.met >= 1
            assert error is None or times is None or may_fail(kind, name, requests[number]), (requests[number], error)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("until", ["/preupload/", "/commit/"])
def test_a_hub_that_goes_down_before_or_after_the_commit_is_no_obstacle_later(
    stage: Stage, name: str, until: str
) -> None:
    requests = requests_of(stage, SCENES[name])
    last = next(number for number, request in enumerate(requests) if until in request)
    stage.set(SCENES[name])
    stage.hub.fault(faults.status(503), skip=last + 1, times=None)
    assert isinstance(stage.check(lambda: stage.push(**SCENES[name].options)), NetworkError)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("503", NetworkError), ("429 Retry-After", RateLimited), ("lost answer", None), ("late", None)],
)
def test_a_commit_that_never_answers_is_an_error_or_is_found(
    stage: Stage, kind: str, error: type[SiHubError] | None
) -> None:
    stage.set(SCENES["again"])
    stage.hub.fault(KINDS[kind], on="POST .*/commit/", times=None)
    raised = stage.check(lambda: stage.push(tag="v1"))
    assert raised is None if error is None else isinstance(raised, error)


@pytest.mark.parametrize("name", SCENES)
def test_a_commit_whose_answer_is_lost_is_not_made_again(stage: Stage, name: str) -> None:
    stage.set(SCENES[name])
    lost = stage.hub.fault(faults.lost_answer(), on="POST .*/commit/")
    assert stage.check(lambda: stage.push(**SCENES[name].options)) is None
    assert lost.met == 1
    assert len(stage.hub.log.matching("POST .*/commit/")) == 1


def test_a_pull_request_that_a_gateway_gave_up_is_looked_for_and_not_asked_for_twice(stage: Stage) -> None:
    stage.set(SCENES["request"])
    stage.hub.fault(faults.status(504), on="POST .*/commit/")
    assert isinstance(stage.check(lambda: stage.push(create_pr=True)), NetworkError)
    assert len(stage.hub.log.matching("POST .*/commit/")) == 2  # the push that failed, and the next one


def test_an_older_request_with_the_same_content_is_not_taken_for_a_lost_one(stage: Stage) -> None:
    stage.set(SCENES["request"])
    stage.push(create_pr=True)
    stage.hub.fault(faults.dropped(), on="POST .*/commit/")
    assert stage.push(create_pr=True, force=True).branch == "refs/pr/2"


def test_what_the_hub_asks_to_wait_is_waited(stage: Stage, waits: list[float]) -> None:
    stage.set(SCENES["new"])
    stage.hub.fault(faults.rate_limit(7), on="/commit/")
    stage.hub.fault(faults.rate_limit(11, header="RateLimit"), on="/repos/create")
    assert stage.check(lambda: stage.push(repo_id=STYLE)) is None
    assert waits == [11.0, 7.0]


def test_a_commit_that_somebody_else_overtakes_is_a_conflict(stage: Stage) -> None:
    stage.set(SCENES["again"])
    head = stage.hub.repo(STYLE).head()

    def overtake(answer: object) -> object:
        stage.hub.repo(STYLE).commit({"styleinject.safetensors": b"theirs"})
        return answer

    stage.hub.fault(faults.edited(overtake), on="/preupload/")
    with pytest.raises(SiHubError, match="moved while this was being pushed"):
        stage.push()
    assert stage.hub.repo(STYLE).files()["styleinject.safetensors"] == b"theirs"
    assert stage.hub.repo(STYLE).commits()[1] == head


def test_a_lost_commit_with_another_on_top_is_not_made_twice(stage: Stage) -> None:
    stage.set(SCENES["again"])
    lost = stage.hub.fault(faults.lost_answer(), on="/commit/")

    def top(answer: object) -> object:
        if lost.met:
            stage.hub.repo(STYLE).commit({"notes.txt": "theirs"})
        return answer

    stage.hub.fault(faults.edited(top), on="/refs", times=None, skip=1)
    stage.push()
    assert stage.hub.repo(STYLE).messages().count("Push the adapter with si-hub") == 2
