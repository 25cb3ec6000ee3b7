"""Parameters and fields that nobody knows."""

import difflib
from collections.abc import Collection
from typing import Any

from fastapi import Request

from warmclip.serve.problems import Problem


async def refuse_unknown_parameters(request: Request) -> None:
    """Refuse them: a filter that is misspelt would else find too much, in silence.

    Raises:
        Problem: naming the parameter, and the one that may be meant; or a field that is empty,
            which would else count as one that was not sent.
    """
    path = getattr(request.scope.get("route"), "path", "")
    operation = request.app.openapi()["paths"].get(path, {}).get(request.method.lower())
    if operation is None:  # it is not described
        return
    known = [it["name"] for it in operation.get("parameters", ()) if it["in"] == "query"]
    for name in request.query_params:
        _check(name, known, f"parameter of {path}")
    fields = _fields(request.app.openapi(), operation)
    if not fields:
        return
    for name, value in (await request.form()).multi_items():  # FastAPI has read it already
        _check(name, fields, f"field of {path}")
        if value == "":
            raise Problem(422, f"the field {name!r} is empty: say something, or leave it out")


def _fields(description: dict[str, Any], operation: dict[str, Any]) -> Collection[str]:
    """Of a form, as far as FastAPI reads it for the route."""
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("multipart/form-data", {}).get("schema", {})
    if "$ref" not in schema:
        return ()
    form = description["components"]["schemas"][schema["$ref"].split("/")[-1]]
    fields: dict[str, Any] = form["properties"]
    return fields


def _check(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise Problem(422, f"{name[:100]!r} is no {what}{hint}")
