"""How often one client may ask, by a clock of the test's own."""

import tracemalloc

import pytest

from warmclip.serve.problems import Problem
from warmclip.serve.rate_limiter import RateLimiter, client_of


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """The time, s."""
        return self.now


def admitted(rate: RateLimiter, address: str, most: int = 1000) -> int:
    """How many requests in a row pass."""
    for count in range(most):
        try:
            rate.admit(address)
        except Problem:
            return count
    return most


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600])
def test_burst_then_steady(per_minute: int) -> None:
    """A minute's requests may come at once; then one passes as soon as Retry-After says."""
    clock = Clock()
    rate = RateLimiter(per_minute, clock)
    assert admitted(rate, "192.0.2.1") == per_minute
    for _ in range(3):
        with pytest.raises(Problem) as refused:
            rate.admit("192.0.2.1")
        assert refused.value.status == 429
        wait_s = int(refused.value.headers["Retry-After"])
        assert 1 <= wait_s <= max(1, 60 / per_minute) + 1
        clock.now += wait_s
        assert admitted(rate, "192.0.2.1") == max(1, int(wait_s * per_minute / 60))
    clock.now += 3600
    assert admitted(rate, "192.0.2.1") == per_minute


def test_a_minute_has_sixty_seconds() -> None:
    """Of sixty a minute, the next one passes after a second, and not before."""
    clock = Clock()
    rate = RateLimiter(60, clock)
    assert admitted(rate, "192.0.2.1") == 60
    for seconds, count in ((0.99, 0), (0.02, 1)):
        clock.now += seconds
        assert admitted(rate, "192.0.2.1") == count


def test_refused_requests_cost_nothing() -> None:
    """Whoever goes on asking while refused waits no longer for it."""
    clock = Clock()
    rate = RateLimiter(60, clock)
    admitted(rate, "192.0.2.1")
    for _ in range(100):
        assert admitted(rate, "192.0.2.1") == 0
    clock.now += 1
    assert admitted(rate, "192.0.2.1") == 1


def test_clients_by_address() -> None:
    """One client's haste is not another's; addresses of one IPv6 network are one client."""
    rate = RateLimiter(5, Clock())
    assert admitted(rate, "192.0.2.1") == 5
    assert admitted(rate, "192.0.2.2") == 5
    assert admitted(rate, "2001:db8::1") == 5
    assert admitted(rate, "2001:db8::ffff:ffff:ffff:ffff") == 0
    assert admitted(rate, "2001:db8:0:1::1") == 5
    assert client_of("::ffff:192.0.2.1") == client_of("192.0.2.1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2%eth0")
    assert admitted(rate, "::1") == admitted(rate, "") == 5


def test_many_addresses() -> None:
    """Memory is bounded, and who has just asked is still known."""
    rate = RateLimiter(5, Clock())
    tracemalloc.start()
    for number in range(50_000):
        rate.admit(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    used_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rate) == 10_000
    assert used_bytes < 4_000_000
    assert admitted(rate, "10.0.195.79") == 4
