"""The configuration of Sphinx, which builds a site from these pages and the docstrings.

``make docs`` runs it, and takes every warning for an error: a link to a page or heading that is
not there, a reference to a name that is not documented, a page that no table of contents names.
"""

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment

import warmclip

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import generated_pages  # noqa: E402 - it lies beside this file

project = "warmclip"
release = version = warmclip.__version__
copyright = "the contributors to warmclip"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_generated"]  # included by the pages that show them

html_theme = "furo"
html_title = f"warmclip {release}"
html_extra_path = ["_generated/openapi.json"]
html_copy_source = False

myst_heading_anchors = 3

autodoc_member_order = "bysource"
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!warmclip\.).*"),  # other libraries: their inventories are not at hand offline
    ("py:class", r"warmclip\..*\.[A-Z]"),  # type variables
]

ROOT_DOCUMENTS = ("ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY")
_ROOT_LINK = re.compile(rf"\]\((?:\.\./)*({'|'.join(ROOT_DOCUMENTS)})\.md")
_ARRAY = re.compile(r"~?numpy\.ndarray\[.*?float32\]\]")
_COLON = "\ue000"  # of a private area
_DOCS_LINK = re.compile(r"\]\(docs/")


def read_root_document(app: Sphinx, page: str, source: list[str]) -> None:
    """Show the documents of the repository's root as pages, and lead links to those pages."""
    folder, _, name = page.rpartition("/")
    if folder == "project" and name.upper() in ROOT_DOCUMENTS:
        document = HERE.parent / f"{name.upper()}.md"
        app.env.note_dependency(document)
        source[0] = _DOCS_LINK.sub("](/", document.read_text(encoding="utf-8"))
    source[0] = _ROOT_LINK.sub(lambda link: f"](/project/{link[1].lower()}.md", source[0])


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Link a name by its last part.

    Signatures say where a class is defined, this reference where it is imported from.
    """
    domain = env.get_domain("py")
    if node.get("refdomain") != "py" or not isinstance(domain, PythonDomain):
        return None
    last = node["reftarget"].rpartition(".")[2]
    full = [name for name in domain.objects if name.rpartition(".")[2] == last]
    if len(full) != 1 or node["reftarget"].partition(".")[0] not in ("warmclip", last):
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full[0], node, text)


def read_comment(
    _app: Sphinx, what: str, name: str, _member: Any, _options: Any, lines: list[str]
) -> None:
    """Document a field by the comment behind it; Sphinx itself only reads those with ``#:``."""
    if what != "attribute" or any(lines):
        return
    owner, _, field = name.rpartition(".")
    module, _, cls = owner.rpartition(".")
    source = inspect.getsource(getattr(importlib.import_module(module), cls))
    comment = re.search(rf"^    {field}: [^#\n]*  # (.+)$", source, re.MULTILINE)
    lines[:] = [comment[1]] if comment else []


def hide_colon(*event: Any) -> None:
    """Keep Napoleon from taking what stands before a field's first colon for its type."""
    what, lines = event[1], event[-1]
    if what in ("attribute", "property") and lines:
        lines[0] = lines[0].replace(":", _COLON)


def show_colon(*event: Any) -> None:
    """Undo ``hide_colon``."""
    event[-1][:] = [line.replace(_COLON, ":") for line in event[-1]]


def shorten_arrays(*event: Any) -> tuple[str | None, str | None]:
    """Write arrays as ``numpy.ndarray``: the docstrings give shape and type."""
    arguments, returned = event[-2:]
    return _shortened(arguments), _shortened(returned)


def _shortened(text: str | None) -> str | None:
    return text and _ARRAY.sub("numpy.ndarray", text)


def write_generated_pages(_app: Sphinx) -> None:
    """The commands and the HTTP API describe themselves."""
    generated_pages.write(HERE / "_generated")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("config-inited", lambda app, _config: write_generated_pages(app))
    app.connect("source-read", read_root_document)
    app.connect("missing-reference", find_public_name)
    app.connect("autodoc-process-docstring", read_comment, priority=300)
    app.connect("autodoc-process-docstring", hide_colon, priority=400)  # Napoleon's is 500
    app.connect("autodoc-process-docstring", show_colon, priority=600)
    app.connect("autodoc-process-signature", shorten_arrays)
    return {"parallel_read_safe": True}
