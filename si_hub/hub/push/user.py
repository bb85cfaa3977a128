"""Who pushes: whose token it is, and what may be made with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from si_hub.errors import AuthError, BadListing
from si_hub.hub.client import Client
from si_hub.hub.names import is_repo_id

#: Roles in an organization that may make repositories in it.
_MAKERS = frozenset({"admin", "write", "contributor"})

#: What the Hub calls the right to open discussions and pull requests, and a name that is no namespace's.
_PROPOSE, _EVERYWHERE = "discussion.write", "*"


@dataclass(frozen=True, slots=True)
class HubUser:
    """The owner of the token, as the Hub knows him.

    Attributes:
        name: of the user.
        namespaces: where the token may make repositories: the user's name, and organizations.
        proposing: namespaces and repositories where it may open pull requests; None for everywhere.
        endpoint: address of the Hub.
    """

    name: str
    namespaces: frozenset[str]
    proposing: frozenset[str] | None
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
        if namespace in self.namespaces:
            return
        meant = [name for name in self.namespaces if name.casefold() == namespace.casefold()]
        hint = f"Check the name, or take a token with that right: {self.endpoint}/settings/tokens"
        raise AuthError(
            "there is no such repository, and the token may not make it", file=repo_id,
            expected=", ".join(sorted(self.namespaces)) or "a token that may write", found=namespace,
            hint=f"Write {meant[0]}/{repo_id.partition('/')[2]}." if meant else hint,
        )  # fmt: skip

    def check_may_propose(self, repo_id: str) -> None:
        """
        Raises:
            AuthError: a pull request to this repository, where this token opens none.
        """
        if self.proposing is None or {repo_id, repo_id.partition("/")[0], _EVERYWHERE} & self.proposing:
            return
        raise AuthError(
            "the token may not open a pull request here", file=repo_id, expected=f"the permission {_PROPOSE}",
            hint=f"Give it that permission, or take another: {self.endpoint}/settings/tokens",
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

    def ask() -> tuple[str, str | None, frozenset[str], frozenset[str] | None]:
        me = client.api.whoami()
        token = me.get("auth", {}).get("accessToken", {})
        return me["name"], token.get("role"), _namespaces(me, token), _proposing(token)

    name, role, namespaces, proposing = client.call(ask, about=repo_id)
    if role == "read":
        hint = f"Make one that may write, at {client.endpoint}/settings/tokens, and `hf auth login` with it."
        raise AuthError("the token may only read", file=repo_id, hint=hint)
    return HubUser(name, namespaces, proposing, client.endpoint)


def _namespaces(me: dict[str, Any], token: dict[str, Any]) -> frozenset[str]:
    """Where repositories can be made: a fine-grained token names them itself."""
    own = {me["name"], *(org["name"] for org in me.get("orgs", ()) if org.get("roleInOrg", "write") in _MAKERS)}
    if token.get("role") != "fineGrained":
        return frozenset(own)
    return _scopes(token, "repo.write")


def _proposing(token: dict[str, Any]) -> frozenset[str] | None:
    """Where pull requests can be opened: anywhere, unless the token is fine-grained."""
    if token.get("role") != "fineGrained":
        return None
    everywhere = {_EVERYWHERE} if _PROPOSE in token.get("fineGrained", {}).get("global", ()) else set()
    # Who may write to a repository may propose to it.
    return _scopes(token, _PROPOSE) | _scopes(token, "repo.write") | everywhere


def _scopes(token: dict[str, Any], permission: str) -> frozenset[str]:
    """The namespaces and repositories where a fine-grained token has a permission."""
    scoped = token.get("fineGrained", {}).get("scoped", ())
    return frozenset(
        name for scope in scoped if permission in scope.get("permissions", ()) and (name := scope["entity"].get("name"))
    )
