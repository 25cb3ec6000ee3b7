"""Numbers that whoever searches has given, checked in one place; values as messages show them."""

from typing import Any

from warmclip.errors import SearchRefused

_MOST_SHOWN = 60  # characters
_LONGEST_PATH = 1_000


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


def show_value(value: Any, *, most: int = _MOST_SHOWN) -> str:
    """A value as messages have it, with what is beyond ``most`` characters left out."""
    if isinstance(value, str):
        return repr(value if len(value) <= most else f"{value[:most]}...")
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}..."


def show_path(path: Any) -> str:
    """The same of what should be a path: only what is longer than any that people use is cut."""
    return show_value(path, most=_LONGEST_PATH)
