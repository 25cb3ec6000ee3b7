"""TLS before a server that speaks none: the redis-server of the wheel is built without it."""

import contextlib
import selectors
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from standins.listener import answering

_TLS_RECORD = 16_384 + 2_048  # at most
_CA = ("-subj", "/CN=an authority of one's own", "-extensions", "ca")
_SERVER = ("-subj", "/CN=redis", "-extensions", "server")
_CONFIG = """
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:false
subjectAltName = IP:127.0.0.1
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority of one's own, and what it signed for 127.0.0.1; PEM files."""

    ca: Path
    certificate: Path
    key: Path


def make_authority(folder: Path) -> Authority:
    """Make an authority and a server's certificate with the openssl command."""
    folder.mkdir()
    (folder / "openssl.cnf").write_text(_CONFIG)
    key = ("-newkey", "rsa:2048", "-nodes", "-config", "openssl.cnf")
    _openssl(
        folder, "req", "-x509", *key, *_CA, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"
    )
    _openssl(folder, "req", *key, *_SERVER[:2], "-keyout", "redis.key", "-out", "redis.csr")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
    extensions = ("-extfile", "openssl.cnf", *_SERVER[2:])
    _openssl(folder, "x509", "-req", "-in", "redis.csr", *signing, *extensions, "-out", "redis.pem")
    return Authority(
        ca=folder / "ca.pem", certificate=folder / "redis.pem", key=folder / "redis.key"
    )


@contextmanager
def tls_before(port: int, authority: Authority) -> Iterator[int]:
    """Listen with TLS and pass on to a local port; yields the port to connect to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.certificate, authority.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(visitor: socket.socket) -> None:
            threading.Thread(target=_serve, args=(visitor, context, port), daemon=True).start()

        with answering(listener, serve):
            yield int(listener.getsockname()[1])


def _serve(visitor: socket.socket, context: ssl.SSLContext, port: int) -> None:
    # A visitor who distrusts the certificate hangs up in the handshake: that is their right.
    with (
        visitor,
        contextlib.suppress(OSError),
        context.wrap_socket(visitor, server_side=True) as outside,
        socket.create_connection(("127.0.0.1", port)) as inside,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(outside, selectors.EVENT_READ, inside)
        selector.register(inside, selectors.EVENT_READ, outside)
        while True:
            for key, _ in selector.select():
                source, target = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                # A TLS record is read whole: what select cannot see any more is still in it.
                data = source.recv(_TLS_RECORD)
                if not data:
                    return
                target.sendall(data)


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
