"""Patterns in gitignore's syntax, matched in time that grows with pattern and path, not faster.

As git does it, a pattern is matched against one file or folder, not against what lies inside:
nobody looks into a folder that is excluded.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

LONGEST_PATTERN = 500  # characters
MOST_PATTERNS = 1000  # of one file, or one command

_ANY_FOLDERS = None  # ``**`` between slashes
_ANY_NAME = re.compile(r"(?s:.*)")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern."""

    segments: tuple[re.Pattern[str] | None, ...]  # of the path below the pattern's folder
    is_negated: bool  # it includes again what an earlier one excludes
    is_for_folders: bool  # it says nothing of files

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""From a line as ``.gitignore`` has it, which is neither empty nor a comment.

        Raises:
            ValueError: it is too long, or would match nothing in git: an unclosed ``[``, a range
                such as ``[z-a]``, a ``\`` at the end.
        """
        if len(text) > LONGEST_PATTERN:
            raise ValueError(f"is longer than {LONGEST_PATTERN} characters")
        is_negated = text.startswith("!")
        path = text.removeprefix("!")
        is_for_folders = path.endswith("/")
        path = path.removesuffix("/")
        is_anchored = "/" in path
        names = path.removeprefix("/").split("/")
        if not path or "" in names:
            raise ValueError("has no name, or an empty one, between its slashes")
        segments = [_ANY_FOLDERS if name == "**" else _compile(name) for name in names]
        if not is_anchored:  # a name, in whatever folder
            segments = [_ANY_FOLDERS, segments[0] or _ANY_NAME]
        elif segments[-1] is _ANY_FOLDERS:  # all that is inside, and not the folder itself
            segments.append(_ANY_NAME)
        return cls(tuple(segments), is_negated, is_for_folders)

    def matches(self, names: Sequence[str], *, is_folder: bool) -> bool:
        """Whether it is about a file or folder.

        Args:
            names: the names on its path, from the pattern's folder down.
            is_folder: whether it is a folder.
        """
        if self.is_for_folders and not is_folder:
            return False
        at = done = 0
        again: tuple[int, int] | None = None  # what to go on with if the rest does not match
        while done < len(names):
            segment = self.segments[at] if at < len(self.segments) else _ANY_FOLDERS
            if at < len(self.segments) and segment is _ANY_FOLDERS:
                at += 1
                again = (at, done)
            elif segment is not _ANY_FOLDERS and segment.fullmatch(names[done]):
                at, done = at + 1, done + 1
            elif again is not None:
                # Only the last ``**`` has to take more: what came before it has its place.
                again = (again[0], again[1] + 1)
                at, done = again
            else:
                return False
        return all(segment is _ANY_FOLDERS for segment in self.segments[at:])


class PatternList:
    """Patterns that belong to one folder; the last one that matches decides."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self._patterns = tuple(patterns)[::-1]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @classmethod
    def parse(cls, lines: Iterable[str]) -> Self:
        """From the lines of a file; comments and empty lines are left out.

        Raises:
            ValueError: there are too many, or one is no pattern; the message names it.
        """
        patterns: list[Pattern] = []
        for number, line in enumerate(lines, 1):
            text = _strip(line)
            if not text or text.startswith("#"):
                continue
            if len(patterns) == MOST_PATTERNS:
                raise ValueError(f"it has more than {MOST_PATTERNS} patterns")
            try:
                patterns.append(Pattern.parse(text))
            except ValueError as exc:
                raise ValueError(f"line {number}: the pattern {text[:100]!r} {exc}") from None
        return cls(patterns)

    def verdict(self, names: Sequence[str], *, is_folder: bool) -> bool | None:
        """Whether a file or folder is excluded; None: no pattern is about it.

        Args:
            names: see ``Pattern.matches``; from ``normalized``.
            is_folder: whether it is a folder.
        """
        for pattern in self._patterns:
            if pattern.matches(names, is_folder=is_folder):
                return not pattern.is_negated
        return None


def normalized(name: str) -> str:
    """A name as patterns are compared with it: macOS may store another form of what was typed."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _strip(line: str) -> str:
    r"""A line without its end, and without spaces there that no ``\`` protects."""
    text = line.rstrip("\r\n")
    stripped = text.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    is_protected = backslashes % 2 == 1 and stripped != text
    return f"{stripped} " if is_protected else stripped


def _compile(glob: str) -> re.Pattern[str]:
    """An expression for one name.

    What stands between two stars is looked for once, at its first place: another one would leave
    less for the rest. An atomic group keeps the engine from trying the other places, which took
    78 s for ``*a*a*a*a*b`` and a name of 255 letters.
    """
    parts = [""]
    at = 0
    glob = normalized(glob)
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "*":
            parts.append("")
            continue
        if char == "[":
            expression, at = _compile_set(glob, at)
        elif char == "?":
            expression = "."
        elif char == "\\":
            if at == len(glob):
                raise ValueError(r"ends with a \ that protects nothing")
            expression = re.escape(glob[at])
            at += 1
        else:
            expression = re.escape(char)
        parts[-1] += expression
    first, *middle = parts
    last = f".*{middle.pop()}" if middle else ""
    return re.compile(f"(?s:{first}{''.join(f'(?>.*?{part})' for part in middle if part)}{last})")


def _compile_set(glob: str, at: int) -> tuple[str, int]:
    """The expression for a set such as ``[a-z]``, and where it ends.

    Args:
        glob: the whole name.
        at: behind the opening bracket.
    """
    is_negated = glob[at : at + 1] in ("!", "^")
    at += is_negated
    members: list[str] = []  # with None where a range's hyphen stands
    ranges = ""
    is_first = True
    while True:
        char = glob[at : at + 1]
        if not char:
            raise ValueError("has a [ without its ]")
        at += 1
        if char == "]" and not is_first:
            break
        is_first = False
        if char == "[" and glob[at : at + 1] == ":":
            raise ValueError("has a class such as [:alpha:], which is not understood")
        if char == "\\":
            char = glob[at : at + 1]
            at += 1
        if glob[at : at + 1] == "-" and glob[at + 1 : at + 2] not in ("", "]"):
            end = glob[at + 1]
            at += 2
            if end == "\\":
                end = glob[at : at + 1]
                at += 1
            if not end or end < char:
                raise ValueError(f"has a range from {char!r} to {end!r}")
            ranges += f"{re.escape(char)}-{re.escape(end)}"
        else:
            members.append(char)
    inside = "".join(map(re.escape, members)) + ranges
    return f"[{'^' if is_negated else ''}{inside}]", at
