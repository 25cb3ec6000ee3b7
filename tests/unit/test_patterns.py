"""Patterns in gitignore's syntax, compared with git itself where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmclip.indexing.patterns import PatternList


def excludes(lines: list[str], path: str) -> bool:
    """Whether these patterns exclude a path; a folder ends with a slash."""
    names = path.rstrip("/").split("/")
    return PatternList.parse(lines).verdict(names, is_folder=path.endswith("/")) is True


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.png", ["a.png", "b/a.png", ".png", "a.png/"], ["a.PNG", "a.pngx", "a.png.jpg"]),
        ("cache/", ["cache/", "a/cache/"], ["cache", "a/cache", "caches/"]),
        ("/cache", ["cache", "cache/"], ["a/cache"]),
        ("a/b", ["a/b"], ["c/a/b", "a/b/c", "a/x/b"]),
        ("a/*", ["a/b", "a/b/"], ["a/b/c", "a"]),
        ("**/b", ["b", "a/b", "a/c/b"], ["a/c", "b/a"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "a/", "b/a/c"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/bb", "b", "x/a/b", "a/b/x"]),
        ("**/a/**/b", ["a/b", "x/a/y/a/z/b"], ["a", "b/a"]),
        ("**", ["a", "a/b"], []),
        ("IMG_?.jpg", ["IMG_1.jpg"], ["IMG_.jpg", "IMG_12.jpg", "IMG_1xjpg"]),
        ("[a-c0]x", ["ax", "cx", "0x"], ["dx", "x", "aax"]),
        ("[!a]x", ["bx"], ["ax", "x"]),
        ("[]-]x", ["]x", "-x"], ["ax"]),
        (r"[\]a]x", ["]x", "ax"], ["\\x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("[a-]x", ["ax", "-x"], ["bx"]),
        ("[+--]x", ["+x", ",x", "-x"], ["ax"]),
        ("[a-cx]y", ["by", "xy"], ["-y", "dy"]),
        (r"[a-\c]x", ["bx", "cx"], ["dx", "\\x"]),
        ("[a-a]x", ["ax"], ["bx"]),
        ("[:a]x", [":x", "ax"], ["bx"]),
        ("a*b*c", ["abc", "axbxbxc"], ["ab", "acb", "abcd", "xabc"]),
        (r"\#recycle", ["#recycle"], ["recycle"]),
        (r"\!a", ["!a"], ["a"]),
        (r"a\*", ["a*"], ["ab"]),
        ("a ", ["a"], ["a "]),
        (r"a\ ", ["a "], ["a"]),
        (r"a\ \  ", ["a  "], ["a ", "a"]),
        ("a\\\\ ", ["a\\"], ["a", "a\\ "]),
        ("a/b/**", ["a/b/c", "a/b/c/d"], ["a/b/", "a/c", "a/c/b"]),
        # The same where it does not begin the name.
        ("x[!a]", ["xb"], ["xa", "x"]),
        ("yx[a-c0]", ["yxa", "yxb", "yx0"], ["yxd", "yx-"]),
        ("x[]-]", ["x]", "x-"], ["xa"]),
        (r"x[\]a]", ["x]", "xa"], ["x\\"]),
        (r"x[a-\c]", ["xb", "xc"], ["xd", "x\\"]),
        ("x[a:b]", ["xa", "x:", "xb"], ["xc"]),
        (r"xy\*", ["xy*"], ["xyb"]),
        ("a**b", ["ab", "axxb"], ["a/b"]),
        ("Z\u00fcrich", ["Zu\u0308rich".replace("u\u0308", "\u00fc")], ["Zurich"]),
        ("$RECYCLE.BIN", ["$RECYCLE.BIN"], ["$RECYCLEXBIN"]),
    ],
)
def test_pattern(pattern: str, matching: list[str], others: list[str]) -> None:
    """It is about these paths, and not about the others."""
    assert {path: excludes([pattern], path) for path in [*matching, *others]} == (
        dict.fromkeys(matching, True) | dict.fromkeys(others, False)
    )


def test_last_pattern_decides() -> None:
    """Comments and empty lines are none; what is negated is included again."""
    lines = ["# old", "", "*.png\r\n", "!keep.png", "/new/keep.png"]
    assert excludes(lines, "a.png")
    assert not excludes(lines, "x/keep.png")
    assert excludes(lines, "new/keep.png")
    assert not excludes(lines, "# old")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("a[b", "without its ]"),
        ("a[", "without its ]"),
        ("[z-a]", "range from 'z' to 'a'"),
        ("a\\", "protects nothing"),
        ("!", "no name"),
        ("/", "no name"),
        ("a//b", "no name"),
        ("[[:alpha:]]", "not understood"),
        ("x" * 501, "longer than 500"),
        ("[a-", "without its ]"),
        ("x[[:alpha:]]", "not understood"),
        ("x[z-a]", "range from 'z' to 'a'"),
        ("x[a-", "without its ]"),
        ("xy[a-\\", "range from 'a' to ''"),
        ("xy\\", "protects nothing"),
        ("[a-\\", "range from 'a' to ''"),
    ],
)
def test_pattern_that_would_match_nothing(pattern: str, told: str) -> None:
    """It is refused, with its line and the reason, instead of excluding nothing."""
    with pytest.raises(ValueError, match=r"line 2: the pattern ") as refused:
        PatternList.parse(["a", pattern])
    assert told in str(refused.value)


def test_too_many_patterns() -> None:
    """They are refused."""
    with pytest.raises(ValueError, match="more than 1000"):
        PatternList.parse(["a"] * 1001)
    assert excludes(["# no pattern", "b", *["a"] * 999], "b")
    assert excludes(["x" * 500], "x" * 500)


def test_no_patterns() -> None:
    """There are none in comments and empty lines, and they say nothing of any file."""
    assert not PatternList.parse(["# nothing", "", "  "])
    assert PatternList.parse(["a"])
    assert PatternList.parse(["a", "!b"]).verdict(["b"], is_folder=False) is False
    assert PatternList.parse(["a", "!b"]).verdict(["c"], is_folder=False) is None


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 100 + "b", "a" * 255),
        ("?*" * 100 + "b", "a" * 255),
        ("[ab]*" * 90 + "c", "a" * 255),
        ("/" + "**/a/" * 50 + "b", "a/" * 2000 + "c"),
        ("/" + "**/*a*a/" * 50 + "b", "aaaa/" * 800 + "c"),
    ],
)
def test_hostile_pattern(pattern: str, path: str) -> None:
    """It is answered at all: five stars took a backtracking matcher 78 s for one name."""
    assert not excludes([pattern], path)


NAMES = ("a", "b", "ab", "ba", "a b", "aab", "]", "-", "#a", "!b")
# Git takes the ** of "a**/b" for one that stands alone, which its documentation says it is not.
GLOBS = st.just("**") | (
    st.lists(
        st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "[a-b]", "\\a", "\\*", " ", "-"]),
        min_size=1,
        max_size=4,
    )
    .map("".join)
    .filter(lambda glob: "**" not in glob)
)
LINES = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/", "**/"]),
    st.lists(GLOBS, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "", "/", "/**"]),
).filter(lambda line: line.strip("!/ ") != "")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a tree of folders and files."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    top = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(top)], check=True)
    for first in NAMES[:4]:
        for second in NAMES[:4]:
            (top / f"{first}" / f"{second}d").mkdir(parents=True, exist_ok=True)
            for third in NAMES:
                (top / first / f"{second}d" / third).touch()
    for name in NAMES[4:]:
        (top / name).touch()
    return top


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(LINES, min_size=1, max_size=4))
def test_as_git(repository: Path, lines: list[str]) -> None:
    """Of a whole tree, what git ignores is excluded, and nothing else."""
    (repository / ".gitignore").write_text("\n".join(lines) + "\n", encoding="utf-8")
    paths = [
        str(path.relative_to(repository)) + "/" * path.is_dir()
        for path in sorted(repository.rglob("*"))
        if not path.relative_to(repository).parts[0].startswith(".git")
    ]
    checked = subprocess.run(
        ["git", "-C", str(repository), "check-ignore", "-z", "--stdin", "--no-index"],
        input="\0".join(path.rstrip("/") for path in paths).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    patterns = PatternList.parse(lines)
    out: set[str] = set()
    for path in paths:  # folders come before what lies in them
        names = path.rstrip("/").split("/")
        above = {"/".join(names[:depth]) + "/" for depth in range(1, len(names))}
        if above & out or patterns.verdict(names, is_folder=path.endswith("/")):
            out.add(path)
    ignored = checked.stdout.decode().split("\0")
    assert {path.rstrip("/") for path in out} == set(filter(None, ignored))
