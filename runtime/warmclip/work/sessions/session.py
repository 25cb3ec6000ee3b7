"""One training session, as its record in Redis tells it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast, get_args

from warmclip.errors import SettingsError
from warmclip.settings import check_collection
from warmclip.work.queues import text_of

State = Literal["finding", "running", "paused", "finished", "cancelled", "failed"]

_OVER = ("finished", "cancelled", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One folder on its way into a collection. Times are ISO 8601, UTC."""

    id: str
    state: State
    directory: str  # its real path
    collection: str
    created_at: str
    ended_at: str | None = None
    error: str | None = None  # why nothing could be done at all
    images: int | None = None  # how many were found; None until all are
    indexed: int = 0
    unchanged: int = 0
    reused: int = 0
    skipped: int = 0
    ignored: int = 0  # names in the folder that are hidden, or no pictures
    unreadable_folders: int = 0
    chunks: int = 0  # jobs that the pictures are cut into
    queued: int = 0  # of them, how many were given to the queue
    unsettled: str | None = None  # a change of state that the queue does not reflect yet
    samples: tuple[tuple[float, int], ...] = ()  # when (UNIX time, s), and how many were done

    @property
    def done(self) -> int:
        """Pictures that something has become of."""
        return self.indexed + self.unchanged + self.reused + self.skipped

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be queued for it."""
        return self.state in _OVER

    @property
    def images_per_s(self) -> float | None:
        """How fast it has been lately."""
        if len(self.samples) < 2:
            return None
        (began, first), (ended, last) = self.samples[0], self.samples[-1]
        return (last - first) / (ended - began) if ended > began else None

    @property
    def eta_s(self) -> float | None:
        """Seconds that are left at this rate, while it runs."""
        rate = self.images_per_s
        if self.state != "running" or self.images is None or not rate:
            return None
        return (self.images - self.done) / rate

    @classmethod
    def parse(cls, id_: str, raw: Mapping[Any, Any]) -> Self | None:
        """From the fields of its hash; None if there are none, or they are nobody's session."""
        try:
            values = {text_of(key): text_of(value) for key, value in raw.items()}
            state = values["state"]
            if state not in get_args(State):
                return None
            images = values.get("images")
            return cls(
                id=id_,
                state=cast("State", state),
                directory=str(json.loads(values["directory"])),
                collection=check_collection(values["collection"]),
                created_at=datetime.fromisoformat(values["created_at"]).isoformat(),
                ended_at=values.get("ended_at"),
                error=json.loads(values["error"]) if "error" in values else None,
                images=None if images is None else int(images),
                unsettled=values.get("unsettled"),
                samples=tuple((float(at), int(n)) for at, n in json.loads(values["samples"])),
                **{name: int(values.get(name, 0)) for name in COUNTS},
            )
        except (KeyError, ValueError, TypeError, SettingsError):
            return None


COUNTS = (
    *("indexed", "unchanged", "reused", "skipped", "ignored", "unreadable_folders"),
    *("chunks", "queued"),
)


def utc_now() -> str:
    """The time, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
