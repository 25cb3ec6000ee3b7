"""The pages that are made of the program itself: its commands, and its HTTP API."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from warmclip.serve.app import create_app
from warmclip.serve.context import AppContext

Schema = Mapping[str, Any]

_SCHEMAS = "#/components/schemas/"
_BOUNDS = {
    "minimum": "from {}",
    "maximum": "to {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


def write(folder: Path) -> None:
    """Write cli.md, http.md and openapi.json into a folder."""
    folder.mkdir(exist_ok=True)
    commands = [
        describe_commands("warmclip.cli", "warmclip"),
        describe_commands("warmclip_export.__main__", "warmclip-export"),
    ]
    api = describe_api()
    (folder / "cli.md").write_text("\n".join(commands), encoding="utf-8")
    (folder / "http.md").write_text("\n".join(api_page(api)) + "\n", encoding="utf-8")
    (folder / "openapi.json").write_text(json.dumps(api, indent=1), encoding="utf-8")


def describe_commands(module: str, program: str) -> str:
    """A program's commands and options in Markdown, by Typer."""
    arguments = (sys.executable, "-m", "typer", module, "utils", "docs", "--name", program)
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout  # noqa: S603


def describe_api() -> dict[str, Any]:
    """The API's OpenAPI description. No route is called, so nothing stands behind them."""
    fields = dataclasses.fields(AppContext)
    return create_app(AppContext(**{field.name: Mock() for field in fields})).openapi()


def api_page(api: Schema) -> Iterator[str]:
    """A section for each route, and one for each schema that they name."""
    yield "# Routes"
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            yield f"\n## `{method.upper()} {path}`\n"
            yield operation["description"]
            yield from _table("parameter", _parameters(operation))
            for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"\nBody, `{kind}`:"
                yield from _body(content["schema"], api)
            yield from _answers(operation["responses"])
    yield "\n# Schemas"
    for name, schema in api["components"]["schemas"].items():
        if not name.startswith("Body_"):  # a form: it stands with its route
            yield f"\n## {name}\n"
            yield schema.get("description", "")
            yield from _table("field", _fields(schema))


def _parameters(operation: Schema) -> Iterator[tuple[str, bool, Schema]]:
    for it in operation.get("parameters", ()):
        schema = {"description": it.get("description", ""), **it["schema"]}
        yield it["name"], it.get("required", False), schema


def _fields(schema: Schema) -> Iterator[tuple[str, bool, Schema]]:
    for name, field in schema.get("properties", {}).items():
        yield name, name in schema.get("required", ()), field


def _body(schema: Schema, api: Schema) -> Iterator[str]:
    if "$ref" in schema and not schema["$ref"].startswith(f"{_SCHEMAS}Body_"):
        yield f"\n{_type(schema)}"
        return
    if "$ref" in schema:
        schema = api["components"]["schemas"][schema["$ref"].removeprefix(_SCHEMAS)]
    yield from _table("field", _fields(schema))


def _answers(responses: Schema) -> Iterator[str]:
    yield "\n| status | answer |\n|---|---|"
    for status, response in responses.items():
        if status == "default":
            yield "| other | a [problem](../guides/http.md#errors) |"
            continue
        contents = response.get("content", {}).items()
        kinds = ", ".join(
            _type(content["schema"]) if "$ref" in content.get("schema", {}) else f"`{kind}`"
            for kind, content in contents
        )
        yield f"| {status} | {kinds or response['description']} |"


def _table(heading: str, rows: Iterable[tuple[str, bool, Schema]]) -> Iterator[str]:
    lines = [
        f"| `{name}` | {_type(schema)} | {_need(required, schema)} | {_meaning(schema)} |"
        for name, required, schema in rows
    ]
    if lines:
        yield f"\n| {heading} | type | default | meaning |\n|---|---|---|---|"
        yield from lines


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array" and "items" in schema:
        return f"array of {_type(schema['items'])}"
    return str(schema.get("format") or schema.get("type") or "any")


def _need(required: bool, schema: Schema) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return "" if default is None else f"`{default}`"


def _meaning(schema: Schema) -> str:
    """The description and the bounds, which may stand with one of several choices."""
    parts = []
    for it in (schema, *schema.get("anyOf", ())):
        parts += [it["description"].rstrip(".")] if it.get("description") else []
        parts += [text.format(it[bound]) for bound, text in _BOUNDS.items() if bound in it]
    text = "; ".join(dict.fromkeys(parts))
    return text.replace("|", "\\|").replace("\n", " ")
