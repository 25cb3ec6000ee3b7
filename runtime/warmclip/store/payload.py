"""A payload as JSON carries it, and back."""

import base64
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from warmclip.errors import StoreError
from warmclip.store.filters import TAKEN_FIELD
from warmclip.store.folder_keys import FOLDERS_FIELD, keys_above
from warmclip.store.protocol import Payload

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OPTIONAL = {field.name for field in fields(Payload) if field.default is not MISSING}
_REQUIRED = {field.name for field in fields(Payload)} - _OPTIONAL


def to_json(payload: Payload) -> dict[str, Any]:
    """A payload as JSON can carry it, with what searches by folder and by date ask for.

    A file name that is not UTF-8 has no place in JSON: ``path`` is then for reading only, and
    ``path_b64`` holds the name's bytes.
    """
    raw = asdict(payload)
    name = os.fsencode(payload.path)
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        raw["path"] = name.decode("utf-8", "backslashreplace")
        raw["path_b64"] = base64.b64encode(name).decode("ascii")
    if not payload.canary:
        del raw["canary"]  # a filter finds what has the field
    raw[FOLDERS_FIELD] = keys_above(payload.path)
    if payload.taken_at is None:
        del raw["taken_at"]
    elif payload.taken_at:
        raw[TAKEN_FIELD] = clock_ns(payload.taken_at)
    return raw


def clock_ns(taken_at: str) -> int:
    """What the camera's clock showed, in nanoseconds of a clock in UTC: days are as it has them."""
    shown = datetime.fromisoformat(taken_at).replace(tzinfo=UTC)
    return (shown - _EPOCH) // timedelta(microseconds=1) * 1000


def is_ours(raw: Mapping[str, Any]) -> bool:
    """Whether a payload is one that warmclip wrote."""
    return raw.keys() >= _REQUIRED


def from_json(raw: Mapping[str, Any] | None) -> Payload:
    """The inverse of ``to_json``; fields that are not ours are left out.

    Raises:
        StoreError: a field is missing: the point is not one of ours.
    """
    values = dict(raw or {})
    try:
        values["path"] = path_of(values)
        return Payload(**{name: values[name] for name in _REQUIRED | (_OPTIONAL & values.keys())})
    except KeyError as exc:
        raise StoreError(
            f"a point has no {exc} in its payload: it was not written by warmclip; "
            "choose another collection with WARMCLIP_COLLECTION"
        ) from exc


def path_of(raw: Mapping[str, Any]) -> str:
    """The path in a payload, as the file system spells it.

    Raises:
        KeyError: there is none.
    """
    if "path_b64" in raw:
        return os.fsdecode(base64.b64decode(raw["path_b64"]))
    return str(raw["path"])
