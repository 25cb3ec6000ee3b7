"""Bounds how often one client may ask."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from warmclip.serve.problems import Problem

_SPAN_S = 60.0
_MOST_CLIENTS = 10_000
_NETWORK_BITS = 64  # of an IPv6 address: what one household or machine has for itself


class RateLimiter:
    """A bucket of a minute's requests for each address, which fills steadily.

    It is the generic cell rate algorithm: of each client, only the time is kept at which its
    bucket will be full again. The client that was not seen for longest is forgotten first, so
    memory is bounded however many addresses ask. It is for one thread, the event loop's.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._interval_s = _SPAN_S / per_minute
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def admit(self, address: str) -> None:
        """Count one request of this address.

        Raises:
            Problem: the address asks too often; Retry-After says when it may ask again.
        """
        now, client = self._clock(), client_of(address)
        full_at = max(now, self._full_at.pop(client, now)) + self._interval_s
        wait_s = full_at - now - _SPAN_S
        if wait_s > 1e-6:  # what floats lose while a bucket is emptied
            self._full_at[client] = full_at - self._interval_s
            raise Problem(
                429,
                f"{client} asks more than {self._per_minute} times a minute: wait a moment, or "
                "start the server with a higher --rate",
                {"Retry-After": str(math.ceil(wait_s))},
            )
        self._full_at[client] = full_at
        if len(self._full_at) > _MOST_CLIENTS:
            self._full_at.popitem(last=False)

    def __len__(self) -> int:
        return len(self._full_at)


def client_of(address: str) -> str:
    """The client behind an address: the address itself, or its IPv6 network."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    if parsed.is_loopback:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _NETWORK_BITS), strict=False))
