"""The address on which a worker answers `/metrics`, as it is written for `--metrics-port`."""

from warmclip.errors import SettingsError

LOOPBACK = "127.0.0.1"

_MOST_PORTS = 2**16


def parse_address(text: str, count: int = 1) -> tuple[str, int]:
    """Read ``PORT`` or ``HOST:PORT``, the first of so many: each worker has the next port.

    Raises:
        SettingsError: it is neither, or there are not so many ports.
    """
    host, _, port = text.rpartition(":")
    least, most = min(count - 1, 1), _MOST_PORTS - count  # port 0, which is any, has no next one
    if not (port.isascii() and port.isdigit() and least <= int(port) <= most):
        raise SettingsError(
            f"--metrics-port {text!r}: use a port, or an address and a port, from {least} to {most}"
        )
    return host.strip("[]") or LOOPBACK, int(port)


def write_address(host: str, port: int) -> str:
    """``HOST:PORT``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
