"""The loopback Hub of `tests/hub`, for attacks that come from there."""

from __future__ import annotations

from tests.hub.conftest import client as client
from tests.hub.conftest import home as home
from tests.hub.conftest import hub as hub
from tests.hub.conftest import style as style
from tests.hub.conftest import waits as waits
