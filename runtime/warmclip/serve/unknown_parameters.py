"""Refuses query parameters and form fields that a route does not declare, or that stand twice."""

import difflib
from collections.abc import Collection, Iterable, Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.params import Form
from fastapi.routing import APIRoute

from warmclip.serve.problems import Problem


async def refuse_unknown_parameters(request: Request) -> None:
    """Refuse a request with a parameter or field that its route does not declare, or gets twice.

    A filter that is misspelt would else be passed by, and the search would find too much. Of one
    that stands twice FastAPI takes the last, as of two pictures that are sent.

    Raises:
        Problem: naming the parameter, and the one that may be meant; or a field that is empty,
            which FastAPI takes for one that was not sent.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not route.include_in_schema:  # the page's files
        return
    parameters, fields = list[str](), list[str]()
    for dependant in _flatten(route.dependant):
        parameters += [field.alias for field in dependant.query_params]
        fields += [
            each.alias for each in dependant.body_params if isinstance(each.field_info, Form)
        ]
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        _check(name, parameters, f"parameter of {route.path}")
    refuse_repeated(names)
    if not fields:
        return
    sent = (await request.form()).multi_items()  # FastAPI has read it already
    for name, value in sent:
        _check(name, fields, f"field of {route.path}")
        if value == "":
            raise Problem(422, f"the field {name!r} is empty: give it a value, or leave it out")
    refuse_repeated(name for name, _ in sent)


def refuse_repeated(names: Iterable[str]) -> None:
    """Refuse parameters or fields of which one stands twice.

    Raises:
        Problem: naming it.
    """
    seen = set[str]()
    for name in names:
        if name in seen:
            raise Problem(422, f"{name[:100]!r} stands twice: send one of them")
        seen.add(name)


def _flatten(dependant: Dependant) -> Iterator[Dependant]:
    """A route's own parameters, and those of the functions that it depends on."""
    yield dependant
    for each in dependant.dependencies:
        yield from _flatten(each)


def _check(name: str, declared: Collection[str], what: str) -> None:
    if name not in declared:
        near = difflib.get_close_matches(name, declared, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise Problem(422, f"{name[:100]!r} is no {what}{hint}")
