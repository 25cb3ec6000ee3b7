"""Parameters that nobody knows."""

import difflib

from fastapi import Request

from warmclip.serve.problems import Problem


def refuse_unknown(request: Request) -> None:
    """Refuse them: a filter that is misspelt would else find too much, in silence.

    Raises:
        Problem: naming the parameter, and the one that may be meant.
    """
    path = getattr(request.scope.get("route"), "path", "")
    operation = request.app.openapi()["paths"].get(path, {}).get(request.method.lower())
    if operation is None:  # it is not described
        return
    known = [it["name"] for it in operation.get("parameters", ()) if it["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise Problem(422, f"{name[:100]!r} is no parameter of {path}{hint}")
