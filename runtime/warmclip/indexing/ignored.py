"""Names in folders that are not taken for pictures, counted by what they are.

A count is a plain dict, as reports, Redis and JSON carry it: suffix or reason -> how many.
"""

from collections.abc import Mapping

EXCLUDED = "excluded"
HIDDEN = "hidden"
IN_ICLOUD = "only in iCloud"
LINKED = "linked"  # links to folders
NO_SUFFIX = "without suffix"
OTHER = "other"  # of further kinds

MOST_KINDS = 50  # in one count; a folder may hold any number of them
_LONGEST_SUFFIX = 10
_MOST_DESCRIBED = 10


def kind_of_name(name: str) -> str:
    """The kind that a file counts as which is no picture by its name: its suffix, if it has one."""
    stem, _, suffix = name.rpartition(".")
    is_suffix = stem and suffix.isascii() and suffix.isalnum() and len(suffix) <= _LONGEST_SUFFIX
    return f".{suffix.lower()}" if is_suffix else NO_SUFFIX


def count_ignored(counts: dict[str, int], kind: str, more: int = 1) -> None:
    """Add names of a kind to a count; those of more than fifty kinds are counted together."""
    if kind not in counts and len(counts) >= MOST_KINDS:
        kind = OTHER
    counts[kind] = counts.get(kind, 0) + more


def add_ignored(some: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """Two counts together."""
    both = dict(some)
    for kind, number in more.items():
        count_ignored(both, kind, number)
    return both


def describe_ignored(counts: Mapping[str, int]) -> str:
    """A count for people, such as "1,204 .mov, 88 .psd, 3 hidden", the most frequent first."""
    ordered = sorted(counts.items(), key=lambda it: (-it[1], it[0]))
    told = [f"{number:,} {kind}" for kind, number in ordered[:_MOST_DESCRIBED]]
    if rest := sum(number for _, number in ordered[_MOST_DESCRIBED:]):
        told.append(f"{rest:,} more")
    return ", ".join(told)
