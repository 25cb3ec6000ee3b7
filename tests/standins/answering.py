"""A program somewhere below a child; it answers as long as it lives."""

import socket
import sys

_PATIENCE_S = 60.0
_CODE = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while asked := connection.recv(1):
    connection.sendall(asked)
"""


class AnsweringProgram:
    """Tells life from death without waiting: one that was sent SIGKILL answers no more.

    Attributes:
        command: starts it; it ends by itself after ``close``.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_PATIENCE_S)
        self._connection: socket.socket | None = None
        self.command = [sys.executable, "-c", _CODE, str(self._listener.getsockname()[1])]

    def close(self) -> None:
        """Have the program end by itself, if it lives."""
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def answers(self) -> bool:
        """Whether it lives; waits for its start when it is asked for the first time."""
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.settimeout(_PATIENCE_S)
        try:
            self._connection.sendall(b"?")
            return self._connection.recv(1) == b"?"
        except ConnectionError:
            return False
