import re
from pathlib import Path

import warmclip
from warmclip import settings
from warmclip.work.allowlist import FUNCTIONS, job_name

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_in_the_readme() -> None:
    """A variable that the code reads is documented, and no other is."""
    source = Path(settings.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r'"((?:WARMCLIP|REDIS|QDRANT)_[A-Z_]+)"', source))
    row = re.compile(r"^\| `((?:WARMCLIP|REDIS|QDRANT)_[A-Z_]+)` \|", re.MULTILINE)
    documented = set(row.findall(README))
    assert read == documented


def test_make_targets_that_documents_name_exist() -> None:
    """A command that a reader copies works."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ARCHITECTURE.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        named = set(re.findall(r"^(?:.*`)?make ([a-z][a-z-]+)", text, re.MULTILINE))
        assert named <= targets, name


def test_every_target_has_help_and_is_phony() -> None:
    """`make` alone lists every command."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    phony = set(re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[0].split())
    helped = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert phony == helped


def test_map_of_the_modules() -> None:
    """ARCHITECTURE.md is a map of this tree, complete and current."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (map_,) = re.findall(
        r"^```\nexport/warmclip_export/\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    named = set()
    for line in map_.splitlines():
        names, _, _ = line.strip().partition("  ")
        named |= {name.strip() for name in names.split(",") if not name.endswith("/")}
    there = {
        path.stem
        for folder in ("runtime/warmclip", "export/warmclip_export")
        for path in (ROOT / folder).rglob("*.py")
        if not path.name.startswith("__")
    }
    assert named - {"work/"} == there


def test_import_needs_no_model() -> None:
    """The documented names are importable from the top."""
    imported = re.findall(r"^from warmclip import (.+)$", README, re.MULTILINE)
    names = {name.strip() for line in imported for name in line.split(",")}
    assert {"Encoder", "Indexer"} <= names <= set(warmclip.__all__)


def test_tests_that_documents_name_exist() -> None:
    """What a page says is tested can be looked up."""
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    modules = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for page in (ROOT / "docs").glob("*.md"):
        named = set(re.findall(r"\b(test_\w+)\b(?!\.py)", page.read_text(encoding="utf-8")))
        assert named <= there | modules, page.name


def test_jobs_that_the_readme_names_are_the_ones_that_run() -> None:
    """The table of jobs is the allow-list."""
    listed = set(re.findall(r"^\| `(\w+)\(", README, re.MULTILINE))
    assert {job_name(name) for name in listed} == FUNCTIONS
