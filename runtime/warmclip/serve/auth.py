"""The bearer token that requests must show, if there is one."""

import hashlib
import hmac
import ipaddress
import logging
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from warmclip.errors import SettingsError

log = logging.getLogger(__name__)

_SHORTEST = 16
_MOST_BYTES = 4_096


@dataclass(frozen=True, slots=True)
class Token:
    """A token, kept as its digest, so that no log and no traceback can show it."""

    digest: bytes

    @classmethod
    def from_secret(cls, secret: str) -> Self:
        """Accept a secret that is long enough not to be guessed.

        Raises:
            SettingsError: it is short, or has characters that no HTTP header can carry.
        """
        if len(secret) < _SHORTEST or not (secret.isascii() and secret.isprintable()):
            raise SettingsError(
                f"the token must have at least {_SHORTEST} printable ASCII characters; "
                "`openssl rand -hex 32` makes a good one"
            )
        return cls(_digest(secret))

    def is_shown_by(self, authorization: str | None) -> bool:
        """Whether an Authorization header shows it, compared in constant time."""
        scheme, _, shown = (authorization or "").partition(" ")
        is_equal = hmac.compare_digest(_digest(shown.strip()), self.digest)
        return is_equal and scheme.lower() == "bearer"


def read_token(file: Path | None, secret: str | None) -> Token | None:
    """Read the token from a file, else from the environment; None if neither has one.

    Raises:
        SettingsError: the file cannot be read, is too large, or holds no token.
    """
    if file is None:
        return Token.from_secret(secret) if secret is not None else None
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(file.stat().st_mode)
            content = stream.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise SettingsError(f"--token-file {file} cannot be read: {exc.strerror}") from exc
    if mode & 0o077:
        log.warning("%s is open to other users (mode %04o); chmod 600 closes it", file, mode)
    if len(content) > _MOST_BYTES:
        raise SettingsError(f"--token-file {file} has more than {_MOST_BYTES} bytes")
    return Token.from_secret(content.decode("ascii", "replace").strip())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_token(host: str, token: Token | None) -> None:
    """Refuse to listen at an address that other machines can reach, unless there is a token.

    Raises:
        SettingsError: saying how to give one.
    """
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"--host {host} can be reached from other machines, and there is no token: set "
            "WARMCLIP_TOKEN, or name a file with --token-file, or stay on 127.0.0.1"
        )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
