"""Which pictures there are in files, folders and patterns."""

import errno
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from warmclip.errors import FolderUnreadable
from warmclip.indexing.exclusion import BY_DEFAULT, IGNORE_FILE, Exclusion, FolderRules
from warmclip.indexing.files import is_placeholder
from warmclip.indexing.ignored import (
    EXCLUDED,
    HIDDEN,
    IN_ICLOUD,
    LINKED,
    add_ignored,
    count_ignored,
    kind_of_name,
)
from warmclip.inference.raw_preview import SUFFIXES as RAW_SUFFIXES

# HEIC without the extra is reported with a reason, which is better than passed by.
IMAGE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2"),
    *(".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga"),
    *(".tif", ".tiff", ".webp"),
    *RAW_SUFFIXES,
)

_FULL_DISK_ACCESS = (
    "to have it read, allow Full Disk Access for the program that runs warmclip, such as Terminal "
    "(System Settings, Privacy & Security)"
)

_MAGIC = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFiles:
    """What some paths led to."""

    files: tuple[str, ...]  # in the order named; inside a folder, sorted
    problems: dict[str, str]  # path -> why nothing could be found there
    closed: dict[str, str]  # folder -> why the system lets nobody like us in, at any time
    ignored: dict[str, int]  # names in searched folders that were passed by; see ``ignored``


def find_images(paths: Iterable[str | Path], exclusion: Exclusion = BY_DEFAULT) -> FoundFiles:
    """Find pictures in files, folders and patterns.

    A file is taken whatever its name is. A folder is searched to any depth for names with an
    image suffix; hidden names are passed by (macOS keeps ``._photo.jpg`` beside ``photo.jpg``),
    and links to folders are not followed, so that there are no loops. Of a library of Photos only
    the originals are taken, not their renderings. A path that does not exist but has ``*``, ``?``
    or ``[`` in it means what the shell would have made of it.

    Args:
        paths: files, folders and patterns.
        exclusion: what is passed by besides.
    """
    search = _Search(exclusion)
    for path in paths:
        search.add(os.fspath(path))
    return FoundFiles(
        files=tuple(search.files),
        problems=search.problems,
        closed=search.closed,
        ignored=search.ignored,
    )


class _Search:
    def __init__(self, exclusion: Exclusion) -> None:
        self._exclusion = exclusion
        self.files: dict[str, None] = {}  # a set that keeps its order
        self.problems: dict[str, str] = {}
        self.closed: dict[str, str] = {}
        self.ignored: dict[str, int] = {}

    def add(self, path: str) -> None:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
            # ValueError: a NUL inside the name.
            is_pattern = isinstance(exc, OSError) and not _MAGIC.isdisjoint(path)
            if is_pattern:
                self._add_pattern(path)
            else:
                self.problems[path] = "no such file or folder"
        except OSError as exc:
            self.problems[path] = f"cannot be reached: {exc.strerror}"
        else:
            self._add_existing(path)

    def _add_pattern(self, path: str) -> None:
        # Path.glob takes no absolute pattern.
        matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - as above
        for match in matches:
            self._add_existing(match)
        if not matches:
            self.problems[path] = "no file matches this pattern"

    def _add_existing(self, path: str) -> None:
        if _is_folder(path):
            walk = Walk(path, self._exclusion)
            self.files |= dict.fromkeys(walk)
            self.problems |= walk.problems
            self.closed |= walk.closed
            self.ignored = add_ignored(self.ignored, walk.ignored)
        elif self._exclusion.excludes_named(path):
            count_ignored(self.ignored, EXCLUDED)
        else:
            self.files[path] = None


class Walk:
    """The pictures of one folder, to any depth, as ``find_images`` finds them.

    Attributes:
        problems: folder -> why it could not be read, as far as the walk has come.
        closed: folder -> why the system lets nobody like us in.
        ignored: names so far that were passed by: suffix or reason -> how many.
    """

    def __init__(self, top: str, exclusion: Exclusion | None = BY_DEFAULT) -> None:
        """Nothing is read yet.

        Args:
            top: the folder.
            exclusion: what is passed by; None: only hidden names, and what Photos has made.
        """
        self._top = top
        self._exclusion = exclusion
        self.problems: dict[str, str] = {}
        self.closed: dict[str, str] = {}
        self.ignored: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        # Each folder with the rules of the one above it.
        folders: list[tuple[str, FolderRules | None]] = [(self._top, None)]
        while folders:
            folder, above = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    inside = sorted(entries, key=lambda entry: entry.name)
                rules = self._rules_of(folder, above, inside)
            except OSError as exc:
                self._note_problem(folder, exc)
                continue
            except FolderUnreadable as exc:
                self.problems[folder] = str(exc)
                continue
            deeper: list[tuple[str, FolderRules | None]] = []
            for entry in inside:
                if entry.name.startswith("."):
                    is_in_cloud = is_placeholder(entry.name)
                    count_ignored(self.ignored, IN_ICLOUD if is_in_cloud else HIDDEN)
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                is_in = _is_searched(folder, entry.name)
                if not is_in or rules.excludes(entry.name, is_folder=is_folder):
                    count_ignored(self.ignored, EXCLUDED)
                elif is_folder:
                    deeper.append((entry.path, rules))
                elif entry.is_symlink() and _is_folder(entry.path):
                    count_ignored(self.ignored, LINKED)
                elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield entry.path
                else:
                    count_ignored(self.ignored, kind_of_name(entry.name))
            folders.extend(reversed(deeper))

    def _rules_of(
        self, folder: str, above: FolderRules | None, inside: Iterable["os.DirEntry[str]"]
    ) -> FolderRules:
        """What is excluded in a folder, by what is excluded above it, and what is in it.

        Raises:
            FolderUnreadable: see ``Exclusion.rules_of``.
        """
        if self._exclusion is None:
            return FolderRules()
        if above is None:
            return self._exclusion.rules_of(folder)
        name = os.path.basename(folder)  # noqa: PTH119 - a str, as the walk spells it
        may_have_file = any(entry.name == IGNORE_FILE for entry in inside)
        return above.enter(name, folder, may_have_file=may_have_file)

    def _note_problem(self, folder: str, exc: OSError) -> None:
        reason = f"the folder cannot be read: {exc.strerror}"
        if exc.errno == errno.EPERM:
            # macOS, where a program needs more than the file's own permissions.
            noted = self.problems if folder == self._top else self.closed
            noted[folder] = f"{reason}; {_FULL_DISK_ACCESS}"
        else:
            self.problems[folder] = reason


def _is_searched(folder: str, name: str) -> bool:
    """Whether a folder's entry counts; of a library of Photos only the originals do."""
    return not folder.lower().endswith(".photoslibrary") or name == "originals"


def _is_folder(path: str) -> bool:
    # Path.is_dir raises for a link that leads into a closed folder.
    return os.path.isdir(path)  # noqa: PTH112 - as above
