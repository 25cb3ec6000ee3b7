"""The documents name what is there: commands, settings, jobs, providers, modules, links."""

import ast
import functools
import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

import warmclip
from warmclip import cli, settings
from warmclip.inference.providers import PROVIDERS
from warmclip.settings import Settings
from warmclip.work.allowlist import FUNCTIONS
from warmclip.work.naming import job_name
from warmclip_export import __main__ as export

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / folder / "README.md" for folder in ("deploy", "examples", "models")),
    *(page for page in DOCS.rglob("*.md") if "_generated" not in page.parts),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
COMMAND = re.compile(
    r"(?:^|&& |bin/|=\S+ )(warmclip|warmclip-export) ([a-z][a-z-]*)([^`\n#]*)", re.MULTILINE
)
VARIABLE = r"(?:WARMCLIP|REDIS|QDRANT)_[A-Z_]+"


def read(path: Path | str) -> str:
    """A document; a path without a folder is the root's."""
    return (ROOT / path).read_text(encoding="utf-8")


def rows(document: str, first: str) -> list[tuple[str, ...]]:
    """The rows of a document's tables whose first cell has this form, as cells."""
    found = re.findall(rf"^\| ({first}) \|(.*)\|$", read(document), re.MULTILINE)
    return [(head, *(cell.strip() for cell in rest.split(" | "))) for head, rest in found]


def test_every_setting_is_documented() -> None:
    """The table has each variable that the code reads, and no other."""
    in_code = set(re.findall(rf'"({VARIABLE})"', read(str(settings.__file__))))
    documented = [row[0].strip("`") for row in rows("docs/reference/settings.md", f"`{VARIABLE}`")]
    assert sorted(documented) == sorted(in_code)


def test_defaults_of_settings() -> None:
    """A variable that is set to the default in its row changes nothing."""
    defaults = Settings.from_env({})
    literal = [
        (name.strip("`"), default.strip("`"))
        for name, default, *_ in rows("docs/reference/settings.md", f"`{VARIABLE}`")
        if re.fullmatch("`[^`]+`", default)
    ]
    assert len(literal) > 10
    for name, default in literal:
        assert Settings.from_env({name: default}) == defaults, name


def test_jobs_in_the_table_are_the_ones_that_run() -> None:
    """The table of jobs is the allow-list."""
    listed = re.findall(r"^\| `(\w+)\(", read("docs/reference/jobs.md"), re.MULTILINE)
    assert sorted(map(job_name, listed)) == sorted(FUNCTIONS)


def test_providers_in_the_table() -> None:
    """The table of providers has each of them, and says which of them "auto" may choose."""
    listed = {
        name.strip("`"): auto
        for name, *_, auto in rows("docs/reference/providers.md", "`[a-z0-9-]+`")
    }
    assert listed == {it.name: "yes" if it.in_auto else "no" for it in PROVIDERS.values()}


@pytest.mark.filterwarnings("ignore:The `__fields__` attribute:DeprecationWarning")  # old FastAPI
def test_routes_in_the_guide() -> None:
    """The table of routes has each route of the API's description, and no other."""
    guide = read("docs/guides/http.md")
    paths = {
        f"{method} {path.replace('ID', '{id}')}"
        for method, path in re.findall(r"^\| `(GET|POST) (/[^`?]*)", guide, re.MULTILINE)
    }
    session = "POST /api/v1/training/sessions/{id}"
    changes = re.findall(r"`(?:POST \.\.\./ID)?(/pause|/resume|/cancel|/retry)`", guide)
    described = {
        f"{method.upper()} {path}"
        for path, methods in _generated_pages().describe_api()["paths"].items()
        for method in methods
    }
    assert (paths | {session + change for change in changes}) - {"GET /"} == described


def _generated_pages() -> ModuleType:
    """The module that `make docs` describes commands and API with."""
    spec = importlib.util.spec_from_file_location("generated_pages", DOCS / "generated_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@each_page
def test_make_targets(page: Path) -> None:
    """A target that a reader copies is there."""
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", read(page), re.MULTILINE))
    assert named <= targets


def test_every_target_has_help_and_is_phony() -> None:
    """`make` alone lists every target."""
    makefile = read("Makefile").replace("\\\n", " ")
    phony = set(re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[0].split())
    helped = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert phony == helped


@each_page
def test_commands_and_options(page: Path) -> None:
    """A command that a reader copies is there, with each of its options."""
    options = _options()
    code = [text for language, text in BLOCK.findall(read(page)) if language in ("", "sh")]
    code += re.findall(r"`([^`\n]+)`", BLOCK.sub("", read(page)))
    for program, name, rest in COMMAND.findall("\n".join(code)):
        assert (program, name) in options, f"{program} {name}"
        for option in re.findall(r"(?:^| )(--?[a-z][a-z-]*)", rest):
            assert option in options[program, name], f"{program} {name} {option}"


def _params(command: Any) -> list[Any]:
    """What a command takes, and the commands below it."""
    below = getattr(command, "commands", {}).values()
    return [*command.params, *(param for it in below for param in _params(it))]


@functools.cache
def _options() -> dict[tuple[str, str], set[str]]:
    """The options of each command, with those of the commands below it."""
    return {
        (program, name): {"-h"}.union(*(it.opts + it.secondary_opts for it in _params(command)))
        for program, app in (("warmclip", cli.app), ("warmclip-export", export.app))
        for name, command in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]  # a group
    }


@each_page
def test_python(page: Path) -> None:
    """The Python that a page shows can be compiled, and what it imports of warmclip is public."""
    for language, code in BLOCK.findall(read(page)):
        if language != "python":
            continue
        compile(code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(f"async def page():\n{_indented(code)}")):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("warmclip"):
                module = importlib.import_module(node.module or "")
                names = {alias.name for alias in node.names}
                assert names <= set(getattr(module, "__all__", dir(module))), node.module


def _indented(code: str) -> str:
    return "".join(f"    {line}" for line in code.splitlines(keepends=True))


def test_public_names_are_in_the_reference() -> None:
    """The page of the Python API has each name of `__all__`."""
    page = read("docs/reference/python.md")
    documented = set(
        re.findall(r"^\.\. auto(?:class|function):: warmclip\.(\w+)$", page, re.MULTILINE)
    )
    errors = {name for name in warmclip.__all__ if hasattr(warmclip.errors, name)}
    assert documented == set(warmclip.__all__) - errors
    assert ".. automodule:: warmclip.errors" in page


@each_page
def test_links(page: Path) -> None:
    """A link to a file or a heading of this repository leads there, as read on GitHub."""
    for target in LINK.findall(BLOCK.sub("", read(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            assert heading in _anchors(file), target


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", read(file)), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@each_page
def test_tests_that_a_page_names(page: Path) -> None:
    """What a page says is tested can be looked up."""
    prose = BLOCK.sub("", read(page))  # a page may show tests of an application
    assert set(re.findall(r"\b(test_\w+)\b(?!\.py)", prose)) <= _tests()


@functools.cache
def _tests() -> set[str]:
    """The names of all tests and of their modules."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in [path.stem, *re.findall(r"^def (test_\w+)", read(path), re.MULTILINE)]
    }


def test_map_of_the_modules() -> None:
    """ARCHITECTURE.md has a line for each module and package, at its place, and no other.

    What fails tells the paths that are missing there, each with the module's own first line.
    """
    (drawn,) = re.findall(
        r"^```\n(export/warmclip_export/\n.*?)^```$",
        read("ARCHITECTURE.md"),
        re.MULTILINE | re.DOTALL,
    )
    mapped = _paths_of_map(drawn)
    there = {
        str(path.relative_to(ROOT).with_suffix("")): path
        for folder in ("runtime/warmclip", "export/warmclip_export")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    packages = {f"{path.rpartition('/')[0]}/" for path in there}
    missing = [
        f"{path}  {(ast.get_docstring(ast.parse(read(there[path]))) or '').partition(chr(10))[0]}"
        for path in sorted(there.keys() - mapped)
    ]
    assert not missing
    assert sorted(mapped - there.keys()) == sorted(packages)
    assert len(mapped) == len(there) + len(packages)


def _paths_of_map(drawn: str) -> set[str]:
    """The paths of a map: a level of two spaces is a folder, names in one line are neighbours."""
    folders: list[str] = []
    paths = set()
    for line in drawn.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split(", ")
        for name in names:
            path = "/".join([*folders[:depth], name])
            assert path not in paths, f"{path} stands twice"
            paths.add(path)
        folders[depth:] = [names[0].rstrip("/")]
    return paths


def test_decisions_are_listed_by_their_titles() -> None:
    """The index of decisions has each record, by its number and title."""
    listed = dict(
        re.findall(
            r"^\| \[(\d{4})\]\(\d{4}[^)]*\) \| (.+) \|$",
            read("docs/decisions/index.md"),
            re.MULTILINE,
        )
    )
    for record in sorted((DOCS / "decisions").glob("0*.md")):
        number, title = record.name[:4], read(record).partition("\n")[0]
        assert title == f"# {number} {listed.pop(number).partition(' (')[0]}"
    assert not listed


def test_changelog_has_this_version() -> None:
    """Changes that are not released yet stand above the released version, which has a date."""
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    headings = re.findall(r"^## (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d", headings[1])
