"""Which models a horse has: those that jobs asked for, or that of the worker's collection."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from warmclip.errors import SpaceMismatch

if TYPE_CHECKING:
    from warmclip.store.protocol import Generation

MOST_MODELS = 2
"""That a horse holds at once: each costs its memory."""


class ModelNeeded(SpaceMismatch):
    """A job needs a model that is here and not loaded: it is queued again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedModel:
    """A model that a job would have needed, and its horse has not loaded."""

    fingerprint: str = ""  # empty: none was missed
    instead: str = ""  # the fingerprint of the former one, which has answered
    loaded: tuple[str, ...] = ()  # those that the horse has, the latest used first


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What a worker tells a new horse of models, by their fingerprints."""

    wanted: tuple[str, ...] = ()  # that jobs asked for, the latest first
    refused: tuple[str, ...] = ()  # that could not be loaded

    def with_model(
        self, fingerprint: str, *, instead_of: str = "", loaded: Sequence[str] = ()
    ) -> "ModelChoice":
        """The choice once a job has asked for a model.

        Args:
            fingerprint: of that model.
            instead_of: one that leaves.
            loaded: those that the horse has, the latest used first: of too many, the last leaves.
        """
        others = dict.fromkeys((*loaded, *self.wanted))
        for it in (fingerprint, instead_of):
            others.pop(it, None)
        return ModelChoice(
            wanted=(fingerprint, *others)[:MOST_MODELS],
            refused=tuple(it for it in self.refused if it != fingerprint),  # it is tried again
        )

    def without(self, fingerprint: str) -> "ModelChoice":
        """The choice once a model could not be loaded."""
        return ModelChoice(
            wanted=tuple(it for it in self.wanted if it != fingerprint),
            refused=tuple(dict.fromkeys((*self.refused, fingerprint))),
        )


def find_former(generations: Sequence["Generation"], loaded: Iterable[str]) -> str | None:
    """The model that may answer a search while that of the collection is not loaded.

    Args:
        generations: all vectors that are kept under the collection's name, those in use first.
        loaded: fingerprints.

    Returns:
        One whose vectors are there; None: there is none, or ``migrate`` is still filling them, so
        that most pictures would not be found.
    """
    from warmclip.indexing.pruning import MOST_LOST  # not for a worker's parent, which is light

    in_use, *others = generations
    enough = (1 - MOST_LOST) * in_use.points
    whole = {it.fingerprint for it in others if it.points >= enough}
    return next((it for it in loaded if it in whole), None)


def bundles_to_load(
    wanted: Sequence[str],
    in_use: str | None,
    default: Path,
    find: Callable[[str], Path | None],
) -> list[Path]:
    """The bundles that a horse loads at its start.

    Args:
        wanted: fingerprints that jobs asked for.
        in_use: the fingerprint of the worker's collection; None: there is none, or nobody knows.
        default: WARMCLIP_BUNDLE.
        find: the bundle of a fingerprint, if it is here.
    """
    found = [folder for it in wanted if (folder := find(it)) is not None]
    if not found and in_use is not None and (folder := find(in_use)) is not None:
        found = [folder]
    return found or [default]
