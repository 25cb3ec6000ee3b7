"""What a process is at, told to whoever watches it from outside.

Native code may hang, or take the process with it. Who is told of a piece of work before it begins
knows afterwards what did it.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol, TypeAlias

Stage: TypeAlias = Literal["load", "decode", "run"]
"""Loading a tower's graph, decoding one picture, running one batch."""


class Activity(Protocol):
    """Told of each piece of native work; the encoder calls it from any thread."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether pictures are decoded alone, so that a death then has one cause."""
        ...

    def during(
        self, stage: Stage, what: str, *, rows: int = 1, provider: str = ""
    ) -> AbstractContextManager[object]:
        """The work goes on as long as the block does.

        Args:
            stage: which kind of work.
            what: a picture's path, or the graph that is loaded or run.
            rows: of a batch.
            provider: that computes it.

        Raises:
            ImageUnreadable: this picture is not to be decoded.
        """
        ...


class Unwatched:
    """An ``Activity`` that nobody follows."""

    one_at_a_time = False

    def during(
        self,
        stage: Stage,  # noqa: ARG002 - the protocol's
        what: str,  # noqa: ARG002 - the protocol's
        *,
        rows: int = 1,  # noqa: ARG002 - the protocol's
        provider: str = "",  # noqa: ARG002 - the protocol's
    ) -> AbstractContextManager[object]:
        """Nothing is told."""
        return nullcontext()
