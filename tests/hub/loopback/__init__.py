"""A Hub for the tests: real HTTP, real clients, two servers on two host names, everything kept on disk.

    from tests.hub.loopback import LoopbackHub, faults

    with LoopbackHub(tmp_path / "hub") as hub:
        hub.url                                     # http://localhost:PORT; the file server is http://127.0.0.1:OTHER
        hub.token("writer")                         # "user", may write user/… and guild/…
        #   "reader" (user, read only), "powerless" (user, fine-grained without scopes),
        #   "other" (another account, write), "visitor" (other, read only), "revoked" (unknown to the Hub)

        repo = hub.repo("user/style")               # made if missing; private=True, gated=True
        sha = repo.commit({"a.json": "{}", "b.safetensors": b"…", "old.md": None}, "message")   # None deletes
        repo.files("main"), repo.head(), repo.commits(), repo.messages(), repo.listing()["a.json"].oid
        repo.branches, repo.tags, repo.pulls; repo.tag("v1"); repo.branch("dev"); repo.admit("other")
        hub.repositories                            # all ids

        hub.log                                     # Exchange(server, method, target, headers, body, size, status, …)
        hub.log.matching(r"POST .*/commit/")        # by their line "hub POST /api/… -> 200"; len(), clear(), iteration

        planned = hub.fault(faults.status(503), on=r"POST .*/commit/", skip=0, times=1)     # times=None: all
        planned.met                                 # how many requests met it
        #   status(code, error=, headers=), rate_limit(seconds, header=), delay(seconds), cut(after), corrupt(),
        #   lost_answer() (applied), dropped() (not applied), redirect(url), headers(X_Repo_Commit="…"), body(bytes),
        #   edited(function on the JSON); faults.KINDS: one of every kind that a client should survive
        hub.clear_faults()
        hostile.NAMES, hostile.NOT_HEX, hostile.long_header(90 << 20), …            # see hostile.py

        HfApi(endpoint=hub.url, token=hub.token("writer"))                          # a client in this process
        subprocess.run([...], env=hub.environment(tmp_path / "home", token="writer"))   # and in another

Fixtures in ``tests/hub/conftest.py``: ``hub``, ``client`` (turns huggingface_hub of this process to the Hub),
``run_client`` (a subprocess with the environment), ``waits`` (nobody sleeps). By hand: ``make hub``.

An error of this package's own is a 500 for the client, and raised again by `LoopbackHub.close`.
"""

from tests.hub.loopback import faults, hostile
from tests.hub.loopback.hub import HubRepository, LoopbackHub
from tests.hub.loopback.log import Exchange

__all__ = ["Exchange", "HubRepository", "LoopbackHub", "faults", "hostile"]
