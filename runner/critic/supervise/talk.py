"""Short questions to a server of ours: does it answer, does it ask for its key, does it sleep.

It says what came back, or that nothing did; it never raises for what a server does. What it does not know: chat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from httpx2 import Response

ASK_S = 2.0  # a question that is answered at once or not at all
BUSY = 503  # still loading, by /health
REFUSED_KEY = (401, 403)


@dataclass(frozen=True, slots=True)
class Said:
    """What came back: the status, 0 when nothing did, and the JSON object of the body where there is one."""

    status: int
    body: dict[str, Any]
    why: str = ""  # when nothing came back

    @property
    def ok(self) -> bool:
        return self.status == 200

    def __str__(self) -> str:
        return f"status {self.status}" if self.status else f"no answer ({self.why})"


@dataclass(frozen=True, slots=True)
class Line:
    """The way to a server on this machine."""

    url: str
    key: str = field(repr=False)

    def answers(self) -> bool:
        """Whether it lists its models and does not say that it is still loading (llama-server does, by /health)."""
        return self.ask("GET", "/v1/models").ok and self.ask("GET", "/health").status != BUSY

    def wants_key(self) -> bool:
        """Whether it sends away who comes without the key."""
        return self.ask("POST", "/v1/chat/completions", keyed=False).status in REFUSED_KEY

    def ask(self, method: str, path: str, within_s: float = ASK_S, *, keyed: bool = True) -> Said:
        """One request, straight to this machine: no proxy, no redirect."""
        import httpx2

        headers = {"Authorization": f"Bearer {self.key}"} if keyed else {}
        content = b"{}" if method == "POST" else None
        try:
            with httpx2.Client(timeout=within_s, trust_env=False, verify=False) as client:  # plain http on loopback
                return _said(client.request(method, self.url + path, headers=headers, content=content))
        except httpx2.HTTPError as error:
            return Said(0, {}, type(error).__name__)


def _said(response: Response) -> Said:
    try:
        body = response.json()
    except ValueError:
        body = None
    return Said(response.status_code, body if isinstance(body, dict) else {})
