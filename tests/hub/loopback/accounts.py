"""Who speaks: accounts and their tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from tests.hub.loopback.messages import Refusal, Request

Role = Literal["read", "write", "fineGrained"]


@dataclass(frozen=True)
class Token:
    """A token of an account.

    Attributes:
        name: what tests call it.
        account: whose it is.
        role: read, write, or fine-grained without any permission but to say whose it is.
        organizations: where the account is a member.
    """

    name: str
    account: str
    role: Role
    organizations: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As the real ones look: ``hf_`` and 34 letters and digits; the same for the same name."""
        return "hf_" + hashlib.sha256(self.name.encode()).hexdigest()[:34]

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.account, *self.organizations)

    def may_write(self, repo_id: str) -> bool:
        return self.role == "write" and self.belongs(repo_id)

    def belongs(self, repo_id: str) -> bool:
        """Whether the repository is in one of the account's namespaces."""
        return self.role != "fineGrained" and repo_id.split("/")[0] in self.namespaces

    def whoami(self) -> dict[str, object]:
        scopes = {"fineGrained": {"canReadGatedRepos": False, "global": [], "scoped": []}}
        access = {"displayName": self.name, "role": self.role, "createdAt": "2026-01-01T00:00:00.000Z"}
        return {
            "type": "user",
            "id": hashlib.sha1(self.account.encode()).hexdigest()[:24],
            "name": self.account,
            "fullname": self.account.title(),
            "isPro": False,
            "orgs": [{"type": "org", "name": name, "roleInOrg": "write"} for name in self.organizations],
            "auth": {
                "type": "access_token",
                "accessToken": access | (scopes if self.role == "fineGrained" else {}),
            },
        }


#: "revoked" is in no table: it looks like a token, and the Hub does not know it.
TOKENS = (
    Token("writer", "user", "write", ("guild",)),
    Token("reader", "user", "read", ("guild",)),
    Token("powerless", "user", "fineGrained"),
    Token("other", "other", "write"),
    Token("visitor", "other", "read"),
)
REVOKED = Token("revoked", "nobody", "read")


class Accounts:
    """The tokens that this Hub knows."""

    def __init__(self, tokens: tuple[Token, ...] = TOKENS) -> None:
        self._by_text = {token.text: token for token in tokens}
        self._by_name = {token.name: token for token in tokens}

    def named(self, name: str) -> Token:
        return REVOKED if name == REVOKED.name else self._by_name[name]

    def names(self) -> list[str]:
        return list(self._by_name)

    def known(self, text: str) -> Token | None:
        return self._by_text.get(text)

    def speaker(self, request: Request) -> Token | None:
        """Whose token the request carries, if it carries one.

        Raises:
            Refusal: 401, a token that is not known.
        """
        header = request.headers.get("authorization", "")
        if not header:
            return None
        token = self.known(header.removeprefix("Bearer "))
        if token is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return token

    def member(self, request: Request) -> Token:
        """As `speaker`; 401 where there is none."""
        token = self.speaker(request)
        if token is None:
            raise Refusal(401, "Invalid username or password.")
        return token
