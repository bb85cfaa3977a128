"""Who pushes: whose token it is, and what may be made with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from si_hub.errors import AuthError, BadListing
from si_hub.hub.client import Client
from si_hub.hub.names import is_repo_id

#: Roles in an organization that may make repositories in it.
_MAKERS = frozenset({"admin", "write", "contributor"})


@dataclass(frozen=True, slots=True)
class HubUser:
    """The owner of the token, as the Hub knows him.

    Attributes:
        name: of the user.
        namespaces: where the token may make repositories: the user's name, and organizations.
        endpoint: address of the Hub.
    """

    name: str
    namespaces: frozenset[str]
    endpoint: str

    def whole_id(self, repo_id: str) -> str:
        """``user/name``, where a bare ``name`` is the user's own.

        Raises:
            BadListing: a user's name that is none.
        """
        whole = repo_id if "/" in repo_id else f"{self.name}/{repo_id}"
        if not is_repo_id(whole):
            raise BadListing("the user's name is none", file=repo_id, found=self.name)
        return whole

    def check_may_create(self, repo_id: str) -> None:
        """
        Raises:
            AuthError: a repository that is yet to be made, where this token makes none.
        """
        namespace = repo_id.partition("/")[0]
        if namespace.casefold() not in {name.casefold() for name in self.namespaces}:
            raise AuthError(
                "there is no such repository, and the token may not make it", file=repo_id,
                expected=", ".join(sorted(self.namespaces)) or "a token that may write", found=namespace,
                hint=f"Check the name, or take a token with that right: {self.endpoint}/settings/tokens",
            )  # fmt: skip


def ask_user(client: Client, repo_id: str) -> HubUser:
    """Whose the token is; the first question to the Hub.

    Args:
        client: the Hub.
        repo_id: what it is about, for errors.

    Raises:
        AuthError: no token, one that the Hub does not know, or one that only reads.
        SiHubError: see `Client.call`.
    """

    def ask() -> tuple[str, str | None, frozenset[str]]:
        me = client.api.whoami()
        token = me.get("auth", {}).get("accessToken", {})
        return me["name"], token.get("role"), _namespaces(me, token)

    name, role, namespaces = client.call(ask, about=repo_id)
    if role == "read":
        hint = f"Make one that may write, at {client.endpoint}/settings/tokens, and `hf auth login` with it."
        raise AuthError("the token may only read", file=repo_id, hint=hint)
    return HubUser(name, namespaces, client.endpoint)


def _namespaces(me: dict[str, Any], token: dict[str, Any]) -> frozenset[str]:
    """Where repositories can be made: a fine-grained token names them itself."""
    own = {me["name"], *(org["name"] for org in me.get("orgs", ()) if org.get("roleInOrg", "write") in _MAKERS)}
    if token.get("role") != "fineGrained":
        return frozenset(own)
    scoped = token.get("fineGrained", {}).get("scoped", ())
    return frozenset(scope["entity"].get("name") for scope in scoped if "repo.write" in scope.get("permissions", ()))
