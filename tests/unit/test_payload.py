"""What is stored beside a vector, as JSON carries it and gives it back."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from standins.points import point
from warmclip.errors import StoreError
from warmclip.store.folder_keys import keys_above
from warmclip.store.payload import from_json, is_ours, path_of, to_json
from warmclip.store.protocol import Payload

PAYLOAD = point(1).payload
ODD = "/a/b\udcff/c.jpg"  # the byte 255, as the file system spells it


@pytest.mark.parametrize("path", ["/a/b/c.jpg", "/a/über/c.jpg", "/c.jpg", ODD])
@pytest.mark.parametrize("taken_at", [None, "", "2024-05-06T07:08:09"])
@pytest.mark.parametrize("canary", ["", "guard-3"])
def test_payload_comes_back(path: str, taken_at: str | None, canary: str) -> None:
    """As it was, through JSON, whatever the file is called."""
    payload = replace(PAYLOAD, path=path, taken_at=taken_at, canary=canary)
    raw = json.loads(json.dumps(to_json(payload), ensure_ascii=False).encode("utf-8"))
    assert from_json(raw) == payload
    assert from_json(raw | {"of another version": 1}) == payload
    assert is_ours(raw)
    assert path_of(raw) == path


def test_name_that_is_no_utf8() -> None:
    """People can read it, and its bytes are beside it; a name that is UTF-8 stands alone."""
    raw = to_json(replace(PAYLOAD, path=ODD))
    assert raw["path"] == "/a/b\\xff/c.jpg"
    assert base64.b64decode(raw["path_b64"]) == b"/a/b\xff/c.jpg"
    assert "path_b64" not in to_json(replace(PAYLOAD, path="/a/ü.jpg"))


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, {"canary": None, "taken_at": None, "taken_ns": None}),
        ({"canary": "g-1"}, {"canary": "g-1"}),
        ({"taken_at": ""}, {"taken_at": "", "taken_ns": None}),  # looked for in vain
        (
            {"taken_at": "1970-01-02T00:00:00.000001"},
            {"taken_at": "1970-01-02T00:00:00.000001", "taken_ns": 86_400_000_001_000},
        ),
    ],
)
def test_fields_that_filters_ask_for(changed: dict[str, Any], found: dict[str, Any]) -> None:
    """A filter finds what has a field, so there is one only where it says something."""
    raw = to_json(replace(PAYLOAD, path="/a/b/c.jpg", **changed))
    assert {name: raw.get(name) for name in found} == found
    assert {name for name in found if name in raw} == {
        name for name, value in found.items() if value is not None
    }
    assert raw["folders"] == keys_above("/a/b/c.jpg") == ["/a/b", "/a", "/"]


@pytest.mark.parametrize("name", ["path", "sha256", "mtime_ns", "versions", "indexed_at"])
def test_point_of_somebody_else(name: str) -> None:
    """It has not all that ours have: it is told what is missing, and what to do."""
    raw = to_json(PAYLOAD)
    del raw[name]
    assert not is_ours(raw)
    with pytest.raises(StoreError, match=f"no '{name}' in its payload: .*WARMCLIP_COLLECTION"):
        from_json(raw)


@pytest.mark.parametrize("raw", [None, {}])
def test_point_without_payload(raw: dict[str, Any] | None) -> None:
    """It is nobody's."""
    with pytest.raises(StoreError, match="not written by warmclip"):
        from_json(raw)


def test_point_of_a_version_that_knew_less() -> None:
    """What came later is not needed: nobody looked for a day, and the vector is proven."""
    raw = to_json(replace(PAYLOAD, taken_at="2024-05-06T07:08:09", canary="g-1"))
    del raw["taken_at"], raw["canary"]
    assert is_ours(raw)
    found: Payload = from_json(raw)
    assert (found.taken_at, found.canary) == (None, "")
