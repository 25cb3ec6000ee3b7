"""The canary that a vector waits for, as a value; a stored point carries it as text."""

from dataclasses import dataclass
from typing import Self

_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A golden row that a provider is still to compute right.

    Attributes:
        guard: which Guard of which process will run it: 16 hexadecimal digits.
        number: how many good ones that Guard had run before.
    """

    guard: str
    number: int

    def __str__(self) -> str:
        return f"{self.guard}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The inverse of ``str``; None for an empty text.

        A text that no Guard wrote becomes a canary of no Guard, which nobody proves.
        """
        if not text:
            return None
        guard, _, number = text.rpartition("-")
        if number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS:
            return cls(guard=guard, number=int(number))
        return cls(guard=text, number=0)
