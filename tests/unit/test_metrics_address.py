"""The address of a worker's metrics, as it is written."""

import pytest

from warmclip.errors import SettingsError
from warmclip.work.metrics_address import parse_address, write_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),  # noqa: S104 - it is only read
        ("[::1]:9100", ("::1", 9100)),
        ("photos.example:9100", ("photos.example", 9100)),
        ("0", ("127.0.0.1", 0)),
    ],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    """A port is on loopback; a host is said."""
    assert parse_address(text) == address
    assert parse_address(write_address(*address)) == address


@pytest.mark.parametrize(
    ("address", "text"),
    [(("::1", 9100), "[::1]:9100"), (("127.0.0.1", 9100), "127.0.0.1:9100")],
)
def test_address_as_it_is_written(address: tuple[str, int], text: str) -> None:
    """As in a URL."""
    assert write_address(*address) == text


@pytest.mark.parametrize("text", ["", "x", "-1", "65536", "host:", "9100:host", "9100:", "\xb2"])
def test_address_that_is_none(text: str) -> None:
    """It is named."""
    with pytest.raises(SettingsError, match="--metrics-port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("count", "least", "most"), [(1, 0, 65535), (2, 1, 65534), (3, 1, 65533), (100, 1, 65436)]
)
def test_ports_of_several_workers(count: int, least: int, most: int) -> None:
    """Each has the next port; port 0 is any, and has no next one."""
    for port in (least, most):
        for host in ("", "host:"):
            assert parse_address(f"{host}{port}", count)[1] == port
    for port in (least - 1, most + 1):
        with pytest.raises(SettingsError, match=f"from {least} to {most}"):
            parse_address(f"host:{port}", count)
