"""Numbers that whoever searches has given, checked in one place."""

from typing import Any

from warmclip.errors import SearchRefused
from warmclip.shown import show_value


def check_number(value: Any, what: str, *, most: float) -> float:
    """A number from ``-most`` to ``most``; JSON may bring anything in its place.

    Args:
        value: of any type.
        what: it is, at the beginning of the message: "the weight ", or "min_score=".
        most: it may be, and as much below zero.

    Raises:
        SearchRefused: it is none, as are booleans, NaN and infinities, or lies outside.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -most <= value <= most:  # which NaN is not, either
        raise SearchRefused(f"{what}{show_value(value)}: use a number from {-most:g} to {most:g}")
    return float(value)
