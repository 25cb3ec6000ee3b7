"""Values as messages show them: shortened, and with quotes around text."""

from typing import Any

_MOST_SHOWN = 60  # characters
_LONGEST_PATH = 1_000


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
