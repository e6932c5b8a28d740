"""What a server asks of every call before it looks at anything else: a token that is good for it. On the event loop."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from core.clock import Clock, SystemClock
from core.errors import ForbiddenError, RateLimitedError, UnauthenticatedError, UnavailableError
from core.security import NEEDED, Security

HEADER = "authorization"
SCHEME = "Bearer "
FAILURES, REFILL_PER_S = 10, 1.0
"""So many calls without a good token may a host make at once, and so many more a second."""
MOST_HOSTS = 1024


def _host(peer: str) -> str:
    """Of gRPC's name for a peer; of IPv6 the network, in which one host may have any address."""
    host = unquote(peer).rpartition(":")[0]  # "ipv6:%5B::1%5D:7400"
    kind, _, address = host.partition(":")
    try:
        found = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return host
    return f"{kind}:{ipaddress.ip_network((found, 64), strict=False)}" if found.version == 6 else host


class Gate:
    """Checks calls of one server. Without tokens everybody may call: the server is bound to this machine then.

    A good token always passes; a host's calls without one are answered with less the more there are.
    """

    def __init__(self, security: Security, clock: Clock | None = None) -> None:
        self._tokens, self._clock = security.tokens, clock or SystemClock()
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()  # host -> calls left, and when

    def check(self, method: str, metadata: Iterable[tuple[str, Any]], peer: str) -> None:
        """Raises UnauthenticatedError, ForbiddenError, or RateLimitedError for a host that failed too often."""
        given, roles = self._given(metadata)
        needed = NEEDED.get(method)
        if self._suffice(method, roles):
            return
        self._count_failure(_host(peer))
        if roles:
            raise ForbiddenError(
                f"{method} needs a token of the role {needed}; the one that came is good for {', '.join(sorted(roles))}"
            )
        what = "the token that came is not known here" if given else "no token came"
        raise UnauthenticatedError(
            f"{method}: {what}; give --token-file or SHOAL_TOKEN with one that this server knows"
        )

    @property
    def changes(self) -> int:
        """Grows when other tokens are good than before."""
        return 0 if self._tokens is None else self._tokens.changes

    def check_again(self, method: str, metadata: Iterable[tuple[str, Any]]) -> None:
        """Raises UnavailableError where a stream's token is good no more: a client that has a newer one comes back."""
        if not self._suffice(method, self._given(metadata)[1]):
            raise UnavailableError(f"{method}: the token of this stream is good no more: open it anew with one that is")

    def _given(self, metadata: Iterable[tuple[str, Any]]) -> tuple[str, frozenset[str]]:
        """What came, and the roles that it is good for."""
        given = next((str(value) for key, value in metadata if key == HEADER), "")
        if self._tokens is None or not given.startswith(SCHEME):
            return given, frozenset()
        return given, self._tokens.roles_of(given.removeprefix(SCHEME))

    def _suffice(self, method: str, roles: frozenset[str]) -> bool:
        needed = NEEDED.get(method)
        return self._tokens is None or bool(roles and (needed is None or needed in roles))

    def _count_failure(self, host: str) -> None:
        """Raises RateLimitedError where the host has made too many."""
        now_s = self._clock.now_s()
        left, since_s = self._failures.get(host, (float(FAILURES), now_s))
        left = min(float(FAILURES), left + REFILL_PER_S * (now_s - since_s))
        self._failures[host] = max(0.0, left - 1.0), now_s
        self._failures.move_to_end(host)
        if len(self._failures) > MOST_HOSTS:
            self._failures.popitem(last=False)
        if left < 1.0:
            raise RateLimitedError(f"too many calls without a good token came from {host}: wait a second")
