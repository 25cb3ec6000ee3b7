"""What became of every picture that some paths led to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from warmclip.indexing.ignored import add_ignored


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """The outcome of indexing, or of a part of it; parts add up with ``+``."""

    collection: str
    indexed: int = 0  # embedded and stored
    reused: int = 0  # stored with the vector of the same content elsewhere
    unchanged: int = 0  # already there: same size and modification time
    skipped: dict[str, str] = field(default_factory=dict)  # path -> reason
    # path -> reason: refused in an earlier run and not changed since, or a folder that the system
    # keeps closed; a further run would not help
    unreadable: dict[str, str] = field(default_factory=dict)
    pruned: int = 0  # deleted from the collection, as the file is gone
    # names in the folders that were passed by: suffix or reason -> how many
    ignored: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0: all done that can be; 1: some were skipped."""
        return 1 if self.skipped else 0

    @property
    def not_stored(self) -> dict[str, str]:
        """All that is not in the collection: path -> reason."""
        return self.unreadable | self.skipped

    def __add__(self, other: Self) -> Self:
        return type(self)(
            collection=self.collection,
            indexed=self.indexed + other.indexed,
            reused=self.reused + other.reused,
            unchanged=self.unchanged + other.unchanged,
            skipped={**self.skipped, **other.skipped},
            unreadable={**self.unreadable, **other.unreadable},
            pruned=self.pruned + other.pruned,
            ignored=add_ignored(self.ignored, other.ignored),
            seconds=self.seconds + other.seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can carry it."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The inverse of ``to_dict``; what another version left out is as by default."""
        return cls(**{item.name: raw[item.name] for item in fields(cls) if item.name in raw})
