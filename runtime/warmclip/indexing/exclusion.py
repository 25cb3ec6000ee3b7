"""Which files and folders are not searched for pictures: by default, by ``--exclude``, by files.

Whoever looks for pictures, or asks whether a stored one still belongs to a collection, asks here:
index, audit, repair, prune and the sessions of a server. As in git, of these the first decides that
has a pattern for a file or folder:

1. the patterns that were given (``--exclude``), below each folder that is searched;
2. the ``.warmclipignore`` of its own folder, then of the folder above, and so on. Above the folder
   that is searched they are looked for up to the root that it lies in (WARMCLIP_ROOTS), or to the
   root of the file system: it must not matter which folder was named;
3. the defaults.
"""

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from warmclip.errors import FolderUnreadable, SettingsError
from warmclip.fsutil import prefix_below
from warmclip.indexing.patterns import MOST_PATTERNS, Pattern, PatternList, normalized
from warmclip.indexing.roots import Roots, real_folder
from warmclip.inference.reading import kind_of

IGNORE_FILE = ".warmclipignore"

DEFAULTS = (
    "@eaDir/",  # a Synology's thumbnails
    r"\#recycle/",
    "$RECYCLE.BIN/",
    "$Recycle.Bin/",
    "lost+found/",
    "__MACOSX/",
    "node_modules/",
)
"""Folders that hold nobody's pictures. Hidden ones, such as ``.git``, are not among them: they are
passed by whatever patterns say."""

_LARGEST_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Layer:
    """Patterns, and the folder that they belong to."""

    patterns: PatternList
    depth: int = 0  # how many names are on the folder's path
    file: str = ""  # that has them; empty for none


_NO_LAYER = _Layer(PatternList())


@dataclass(frozen=True, slots=True)
class FolderRules:
    """What is excluded in one folder."""

    names: tuple[str, ...] = ()  # on the folder's real path
    given: _Layer = _NO_LAYER
    files: tuple[_Layer, ...] = ()  # the innermost first
    defaults: _Layer = _NO_LAYER

    def excludes(self, name: str, *, is_folder: bool) -> bool:
        """Whether an entry of the folder is excluded."""
        return self.find_reason(name, is_folder=is_folder) is not None

    def find_reason(self, name: str, *, is_folder: bool) -> _Layer | None:
        """The patterns that exclude an entry, if some do."""
        names = (*self.names, normalized(name))
        for layer in (self.given, *self.files, self.defaults):
            verdict = layer.patterns.verdict(names[layer.depth :], is_folder=is_folder)
            if verdict is not None:
                return layer if verdict else None
        return None

    def enter(self, name: str, folder: str, *, may_have_file: bool = True) -> Self:
        """The rules of a folder in this one.

        Args:
            name: its name.
            folder: its path.
            may_have_file: whether an ignore file is looked for in it.

        Raises:
            FolderUnreadable: its ignore file cannot be used.
        """
        inside = replace(self, names=(*self.names, normalized(name)))
        if not may_have_file:
            return inside
        file = os.path.join(folder, IGNORE_FILE)  # noqa: PTH118 - a str, as the walk spells it
        patterns = _read_patterns(file)
        if not patterns:
            return inside
        return replace(inside, files=(_Layer(patterns, len(inside.names), file), *self.files))


class Exclusion:
    """What is excluded, whichever folder is searched."""

    def __init__(self, patterns: Sequence[str] = (), roots: Roots | None = None) -> None:
        """Nothing is opened.

        Args:
            patterns: in gitignore's syntax, relative to each folder that is searched.
            roots: no ignore file is read outside of them; without any, all are.

        Raises:
            SettingsError: there are too many patterns, or one is none.
        """
        self.patterns = tuple(patterns)
        self._given = _parse_given(self.patterns)
        self._roots = roots or Roots()

    def rules_of(self, top: str) -> FolderRules:
        """What is excluded in a folder that somebody named.

        Raises:
            FolderUnreadable: an ignore file in it or above it excludes it, or cannot be used.
        """
        real = Path(real_folder(top))
        rules = FolderRules()
        for folder in (*reversed(real.parents), real):
            reason = rules.find_reason(folder.name, is_folder=True)
            if reason is not None:
                raise FolderUnreadable(f"a pattern of {reason.file} excludes the folder")
            path = str(folder)
            rules = rules.enter(folder.name, path, may_have_file=self._roots.allow_folder(path))
        depth = len(rules.names)
        return replace(
            rules,
            given=_Layer(self._given, depth),
            defaults=_Layer(PatternList.parse(DEFAULTS), depth),
        )

    def excludes_named(self, path: str) -> bool:
        """Whether a file that somebody named is excluded: only by patterns that were given."""
        names = tuple(normalized(it) for it in Path(path).parts if it != os.sep)
        return any(
            self._given.verdict(names[:depth], is_folder=depth < len(names))
            for depth in range(1, len(names) + 1)
        )


class ExcludedPaths:
    """The files below some folders that are excluded there, by their real paths.

    Of a folder whose ignore file cannot be used, none is: nothing is known of it.
    """

    def __init__(self, exclusion: Exclusion, paths: Iterable[str | Path]) -> None:
        """Nothing is opened.

        Args:
            exclusion: what is excluded.
            paths: the folders, and files that belong to the collection as they are named.
        """
        self._exclusion = exclusion
        self._tops = {real_folder(path) for path in paths}
        self._known: dict[tuple[str, str], FolderRules | bool] = {}

    def __contains__(self, path: object) -> bool:
        """Whether a file is excluded in all of the folders that it lies in."""
        if not isinstance(path, str) or path in self._tops:
            return False
        tops = [top for top in self._tops if path.startswith(prefix_below(top))]
        return bool(tops) and all(self._is_excluded(top, path) for top in tops)

    def _is_excluded(self, top: str, path: str) -> bool:
        folder, name = os.path.split(path)
        rules = self._rules(top, folder)
        return rules if isinstance(rules, bool) else rules.excludes(name, is_folder=False)

    def _rules(self, top: str, folder: str) -> FolderRules | bool:
        """The rules of a folder; or whether all that is in it is excluded."""
        if (top, folder) not in self._known:
            self._known[top, folder] = self._find_rules(top, folder)
        return self._known[top, folder]

    def _find_rules(self, top: str, folder: str) -> FolderRules | bool:
        try:
            if folder == top:
                return self._exclusion.rules_of(top)
            above, name = os.path.split(folder)
            rules = self._rules(top, above)
            if isinstance(rules, bool):
                return rules
            return rules.excludes(name, is_folder=True) or rules.enter(name, folder)
        except FolderUnreadable:
            return False


def _parse_given(patterns: Sequence[str]) -> PatternList:
    if len(patterns) > MOST_PATTERNS:
        raise SettingsError(f"more than {MOST_PATTERNS} patterns to exclude were given")
    parsed = []
    for text in patterns:
        try:
            parsed.append(Pattern.parse(text))
        except ValueError as exc:
            raise SettingsError(f"the pattern to exclude {text[:100]!r} {exc}") from exc
    return PatternList(parsed)


def _read_patterns(file: str) -> PatternList | None:
    """The patterns of an ignore file; None if it is not there.

    Raises:
        FolderUnreadable: it cannot be read, is no UTF-8, too large, or has what is no pattern.
    """
    try:
        # As git: a link could lead outside the roots, and what is behind it be told in a message.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW
        descriptor = os.open(file, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise _unusable(file, "is a link" if exc.errno == errno.ELOOP else exc.strerror) from exc
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _unusable(file, f"is {kind_of(mode)}")
        raw = os.read(descriptor, _LARGEST_FILE_BYTES + 1)
        if len(raw) > _LARGEST_FILE_BYTES:
            raise _unusable(file, f"is larger than {_LARGEST_FILE_BYTES:,} bytes")
        return PatternList.parse(raw.decode("utf-8-sig").split("\n"))
    except UnicodeDecodeError as exc:
        raise _unusable(file, f"is not UTF-8, at its byte {exc.start}") from exc
    except ValueError as exc:
        raise _unusable(file, str(exc)) from exc
    except OSError as exc:
        raise _unusable(file, exc.strerror) from exc
    finally:
        os.close(descriptor)


def _unusable(file: str, reason: str | None) -> FolderUnreadable:
    return FolderUnreadable(f"the folder is not searched, as {file} cannot be used: {reason}")


BY_DEFAULT = Exclusion()
"""The defaults and ignore files."""
