"""Among which pictures a search looks, how many hits it may ask for, and how good they must be."""

from dataclasses import dataclass
from datetime import date
from typing import Any, Self

from warmclip.errors import SearchRefused
from warmclip.number import check_number
from warmclip.shown import show_value

MOST_HITS = 5_000
"""Hits that one search may ask for, with those that it leaves out before them."""

_EPOCH = date(1970, 1, 1).toordinal()
_DAY_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which pictures a search may find; all of them, unless it is told.

    A picture's date is that on which it was taken, by its camera's clock. Where it does not tell,
    it is the time of its file's last change as it was indexed, in UTC.
    """

    folder: str | None = None  # what lies below it, to any depth
    since: date | None = None  # on this day or later
    until: date | None = None  # on this day or earlier
    by_file_date: bool = False  # the file's date counts, whatever the picture tells

    def __post_init__(self) -> None:
        """Refuse a span that ends before it begins.

        Raises:
            SearchRefused: naming both days.
        """
        if self.since is not None and self.until is not None and self.since > self.until:
            raise SearchRefused(
                f"since={self.since} is after until={self.until}: no picture is of that time"
            )

    @property
    def first_ns(self) -> int | None:
        """The first nanosecond of the span, in nanoseconds since 1970; None: from the beginning."""
        return None if self.since is None else (self.since.toordinal() - _EPOCH) * _DAY_NS

    @property
    def end_ns(self) -> int | None:
        """The first nanosecond after the span; None: it has no end."""
        return None if self.until is None else (self.until.toordinal() + 1 - _EPOCH) * _DAY_NS

    def to_dict(self) -> dict[str, Any]:
        """As a job carries it: what ``of`` takes."""
        return {
            "folder": self.folder,
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            # Workers of a former version do not know it.
            **({"by_file_date": True} if self.by_file_date else {}),
        }

    @classmethod
    def of(
        cls,
        folder: str | None,
        since: str | None,
        until: str | None,
        *,
        by_file_date: bool = False,
    ) -> Self:
        """A filter of a folder, and of days as people write them.

        Raises:
            SearchRefused: a day that is none, or an end before the beginning.
        """
        return cls(
            folder=folder,
            since=_day("since", since),
            until=_day("until", until),
            by_file_date=by_file_date,
        )


EVERYTHING = Filter()


def parse_day(text: Any) -> date:
    """Read a day as people write it, such as "2026-11-25".

    Raises:
        ValueError: it is no day, or written in another way.
    """
    try:
        day = date.fromisoformat(text)
    except (ValueError, TypeError) as exc:
        raise ValueError(f"{show_value(text)} is no day: write a day as 2026-11-25") from exc
    if day.isoformat() != text:  # other ISO spellings, such as weeks
        raise ValueError(f"{show_value(text)}: write a day as {day.isoformat()}")
    return day


def count_hits(limit: Any, offset: Any) -> int:
    """How many hits a search has to find: those that are asked for, and those left out before them.

    Raises:
        SearchRefused: the numbers are no whole ones from 1 and 0 on, or too large together.
    """
    if type(limit) is not int or type(offset) is not int or limit < 1 or offset < 0:
        raise SearchRefused(
            f"limit={show_value(limit)}, offset={show_value(offset)}: use whole numbers from 1 "
            "and 0 on"
        )
    if limit + offset > MOST_HITS:
        raise SearchRefused(
            f"limit={show_value(limit)} and offset={show_value(offset)}: together at most "
            f"{MOST_HITS} hits"
        )
    return limit + offset


def check_score(score: Any) -> float | None:
    """The cosine similarity that hits must have at least; None: any.

    Raises:
        SearchRefused: it is no number from -1 to 1.
    """
    return None if score is None else check_number(score, "min_score=", most=1)


def _day(name: str, text: Any) -> date | None:
    if text is None:
        return None
    try:
        return parse_day(text)
    except ValueError as exc:
        raise SearchRefused(f"{name}={exc}") from exc
