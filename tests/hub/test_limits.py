"""Limits of answers: for whom they hold, and how long a file of a size may take."""

from __future__ import annotations

from si_hub.hub.limits import ANSWER, PATIENCE, SLOWEST, bounded, limit_for
from tests.hub.loopback import LoopbackHub


def test_a_file_may_take_as_long_as_the_slowest_line_needs() -> None:
    assert limit_for(0).seconds == PATIENCE
    assert limit_for(SLOWEST * 100).seconds == PATIENCE + 100
    assert limit_for(1 << 40).size is None


def test_the_session_is_watched_once_however_often_it_is_used(client: LoopbackHub) -> None:
    from huggingface_hub.utils import get_session

    before = {name: len(hooks) for name, hooks in get_session().event_hooks.items()}
    for _ in range(3):
        with bounded(ANSWER), bounded(None):
            pass
    after = {name: len(hooks) for name, hooks in get_session().event_hooks.items()}
    assert after == {name: count + 1 for name, count in before.items()}


def test_unpacked_is_asked_for_within_only(client: LoopbackHub) -> None:
    from huggingface_hub.utils import get_session

    url = f"{client.url}/api/models"
    with bounded(ANSWER):
        assert get_session().get(url).request.headers["Accept-Encoding"] == "identity"
        with bounded(None):
            assert get_session().get(url).request.headers["Accept-Encoding"] != "identity"
    assert get_session().get(url).request.headers["Accept-Encoding"] != "identity"
