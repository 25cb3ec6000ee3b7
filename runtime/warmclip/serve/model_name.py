"""The model that a request names: as a parameter, or in its body."""

from typing import Annotated, Any, TypeAlias

from fastapi import Form, Query
from pydantic import Field

from warmclip.serve.problems import Problem

_Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)] | None

_DESCRIPTION = (
    "The name of a bundle's folder on the workers' machines, or 12 digits of its fingerprint or "
    "more. Without it: the workers' own model."
)
_EXAMPLES = ["ViT-B-16-SigLIP2-256-webli"]

Model = Annotated[_Name, Query(description=_DESCRIPTION, examples=_EXAMPLES)]
FormModel = Annotated[_Name, Form(alias="model", description=_DESCRIPTION, examples=_EXAMPLES)]
BodyModel = Annotated[_Name, Field(description=_DESCRIPTION, examples=_EXAMPLES)]


def choose_model(parameter: str | None, in_body: str | None) -> str | None:
    """The one that is named, wherever that is; None: none is.

    Raises:
        Problem: two are named.
    """
    if None not in (parameter, in_body) and parameter != in_body:
        raise Problem(
            422, f"the parameter names the model {parameter!r}, and the body {in_body!r}: name one"
        )
    return parameter if in_body is None else in_body


def naming(model: str | None) -> dict[str, Any]:
    """A job's argument that names a model; without one, none that former workers do not know."""
    return {} if model is None else {"model": model}
