"""Every error that warmclip raises on purpose.

WarmclipError
├── SettingsError              a variable or an option has a value that cannot be used
├── BundleError                a model folder is missing, incomplete, altered or too new
│   └── ModelUnknown           a job names a model that is not here
├── ProviderUnavailable        the asked-for execution provider is not there, or not right
│   └── CacheUnusable          what it compiles cannot be kept
├── ForkedSessionError         a session was used in a forked child
├── BadVectors                 a model's output failed the check before it could be stored
├── ImageUnreadable            one image could not be embedded, with the reason
│   └── ImageUnavailable       its bytes could not be read just now
│       └── ImageAbsent        there is no such file inside the roots
├── ImagesUnreadable           some of a call's images could not: index -> reason
├── TextRefused                a text that no tokenizer input can be made of
├── SearchRefused              a search with days, a limit or an offset that cannot be used
├── StoreError                 the vector store refused or failed
│   ├── StoreHeld              another process owns the embedded store
│   ├── NotStored              there is no such collection, or no such picture or vectors in it
│   ├── SpaceMismatch          a collection holds vectors of another model
│   ├── SourceChanged          a collection was written to while it was being replaced
│   ├── StoreDamaged           files of the embedded store are torn, or gone
│   ├── RequestTooLarge        a server refused a request that may pass with less in it
│   └── StoreUnreachable       no answer from the store's address
├── PruneRefused               a deletion that looks like an unmounted disk
├── FolderUnreadable           what a training session is to search is no folder
├── SessionOver                a training session is not in a state for what is asked of it
├── JobRefused                 a job outside the allow-list, the roots or the bounds
├── JobFailed                  a worker could not do what it was asked for
├── HorseDied                  the process that ran a job died, or was killed as it hung
├── QueueUnreachable           no answer from Redis, or from a worker
├── Overloaded                 more is asked for at once than is answered in time
└── OutputUnwritable           a command's answer could not be written

A message says what, which value, where, and what to do. ``exit_code`` is what a command
ends with: 2 for bad usage or configuration, 3 for a service that is unreachable.
"""

from collections.abc import Mapping


class WarmclipError(Exception):
    """The root of the tree."""

    exit_code = 2
    may_pass = False  # whether the same thing may succeed later, so that a retry makes sense


class SettingsError(WarmclipError):
    """A variable or an option has a value that cannot be used."""


class BundleError(WarmclipError):
    """A model folder is missing, incomplete, altered or of a newer format."""


class ModelUnknown(BundleError):
    """A job names a model that the worker does not have."""


class ProviderUnavailable(WarmclipError):
    """The asked-for execution provider is not in this onnxruntime, or computes wrong vectors."""


class CacheUnusable(ProviderUnavailable):
    """What the provider compiles cannot be kept, for want of room or of a folder that is ours.

    Nothing is known of the provider itself.
    """


class ForkedSessionError(WarmclipError):
    """A session made in one process was used in a forked child of it."""


class BadVectors(WarmclipError):
    """A model's output has the wrong shape, NaN, or rows without length: it is never stored."""


class ImageUnreadable(WarmclipError):
    """One image could not be embedded; the message is the reason, without the name."""


class ImageUnavailable(ImageUnreadable):
    """The bytes of one image could not be read just now, so nothing is known of its content."""

    may_pass = True


class ImageAbsent(ImageUnavailable):
    """There is no such file now, or none inside the roots."""


class ImagesUnreadable(WarmclipError):
    """Some images of one call could not be embedded.

    Attributes:
        reasons: position in the call -> the reason.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(reasons)
        listed = "; ".join(f"[{index}] {reason}" for index, reason in self.reasons.items())
        super().__init__(f"images that could not be read: {listed}")


class TextRefused(WarmclipError):
    """A text that is no str, or longer than the limit."""


class SearchRefused(WarmclipError):
    """A search has days, a limit or an offset that cannot be used."""


class StoreError(WarmclipError):
    """The vector store refused a request, or failed."""


class StoreHeld(StoreError):
    """Another process owns the embedded store, and may end: a supervisor is to try again.

    Attributes:
        by_the_living: whether the process that took it still runs; else a child of it holds it.
    """

    exit_code = 3

    def __init__(self, message: str, *, by_the_living: bool = True) -> None:
        self.by_the_living = by_the_living
        super().__init__(message)


class NotStored(StoreError):
    """There is no such collection, no such picture in it, or it has no vectors of that model."""


class SpaceMismatch(StoreError):
    """The collection behind a name holds vectors of another embedding space."""


class SourceChanged(StoreError):
    """A collection was written to while another one was made from it; nothing was switched."""


class StoreDamaged(StoreError):
    """Files of an embedded collection are torn or gone.

    Attributes:
        collection: its own name; empty if the store as a whole is damaged.
    """

    def __init__(self, message: str, *, collection: str = "") -> None:
        self.collection = collection
        super().__init__(message)


class RequestTooLarge(StoreError):
    """The store refused a request; with fewer points or conditions in it, it may be carried out."""


class StoreUnreachable(StoreError):
    """No answer from the store's address."""

    exit_code = 3
    may_pass = True


class PruneRefused(WarmclipError):
    """A deletion that looks like an unmounted disk rather than like deleted pictures."""


class FolderUnreadable(WarmclipError):
    """What a training session is to search is no folder, or is named by no absolute path."""


class SessionOver(WarmclipError):
    """A training session is not in a state for what is asked of it."""


class JobRefused(WarmclipError):
    """A job names a function, a path or an amount that this worker does not accept."""


class JobFailed(WarmclipError):
    """A worker could not do what it was asked for."""


class HorseDied(WarmclipError):
    """The process that ran a job died under it; the message names how, and what it was at."""

    exit_code = 3
    may_pass = True


class QueueUnreachable(WarmclipError):
    """No answer from Redis."""

    exit_code = 3
    may_pass = True


class Overloaded(WarmclipError):
    """More is asked for at once than can be answered in time."""

    exit_code = 3
    may_pass = True


class OutputUnwritable(WarmclipError):
    """A command's answer could not be written to its standard output."""


def revive(kind: str, message: str) -> WarmclipError:
    """An error that another process told of, by the name of its class."""
    found = globals().get(kind)
    if (
        isinstance(found, type)
        and issubclass(found, WarmclipError)
        and found is not ImagesUnreadable  # made of reasons, not of a message
    ):
        return found(message)
    return JobFailed(f"{kind}: {message}")


def missing_package(exc: ModuleNotFoundError) -> str:
    """The package that an import lacks, for a message that names its extra.

    Raises:
        ModuleNotFoundError: the error itself, where a module of ours is missing: a bug.
    """
    if exc.name is None or exc.name.partition(".")[0] == "warmclip":
        raise exc
    return exc.name
