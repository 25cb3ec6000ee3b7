"""What a search looks for: its words, pictures and weights, and their one vector."""

import re
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

from warmclip.errors import SearchRefused
from warmclip.indexing.combination import combine_terms, combine_vectors
from warmclip.indexing.query import MOST_TERMS, MOST_WEIGHT, Query, Term, parse_query


@pytest.mark.parametrize(
    ("typed", "terms"),
    [
        (["red"], [("text", "red", 1)]),
        (["a", "red", "star"], [("text", "a red star", 1)]),
        (["a red star"], [("text", "a red star", 1)]),
        (["a red car", "-", "night"], [("text", "a red car", 1), ("text", "night", -1)]),
        (["-", "night"], [("text", "night", -1)]),
        (["+", "night"], [("text", "night", 1)]),
        (
            ["a", "car", "-", "the", "night", "+", "photo.jpg"],
            [("text", "a car", 1), ("text", "the night", -1), ("image", "photo.jpg", 1)],
        ),
        (["2:cat"], [("text", "cat", 2)]),
        (["cat", "+", "0.5:./a b.png"], [("text", "cat", 1), ("image", "./a b.png", 0.5)]),
        (["cat", "-", ".5:dog"], [("text", "cat", 1), ("text", "dog", -0.5)]),
        (["1e1:cat"], [("text", "cat", 10)]),
        (["2:", "a", "cat"], [("text", "a cat", 2)]),
        (["1000:cat", "-", "1000:dog"], [("text", "cat", 1000), ("text", "dog", -1000)]),
        (["2." + "0" * 22 + ":cat"], [("text", "cat", 2)]),
        (["2." + "0" * 23 + ":cat"], [("text", "2." + "0" * 23 + ":cat", 1)]),
        (["2:3d"], [("text", "2:3d", 1)]),
        (["/photos/a"], [("image", "/photos/a", 1)]),
        (["../a"], [("image", "../a", 1)]),
        (["~/a.PNG"], [("image", "~/a.PNG", 1)]),
        (["a.NEF"], [("image", "a.NEF", 1)]),
        # Words, though they look a little like something else.
        (["12:30", "on", "a", "clock"], [("text", "12:30 on a clock", 1)]),
        (["4:3"], [("text", "4:3", 1)]),
        (["a:b"], [("text", "a:b", 1)]),
        ([":b"], [("text", ":b", 1)]),
        (["black", "/", "white"], [("text", "black / white", 1)]),
        (["my", "photo.jpg"], [("text", "my photo.jpg", 1)]),
        (["my photo.jpg"], [("text", "my photo.jpg", 1)]),
        (["a thermometer at -40"], [("text", "a thermometer at -40", 1)]),
        (["c++"], [("text", "c++", 1)]),
        (["well-known"], [("text", "well-known", 1)]),
        (["nan"], [("text", "nan", 1)]),
        (["a", "", "star"], [("text", "a  star", 1)]),
        (["1" * 100 + ":cat"], [("text", "1" * 100 + ":cat", 1)]),
    ],
)
def test_query_as_people_type_it(typed: list[str], terms: list[tuple[str, str, float]]) -> None:
    """Signs that stand alone begin a term, a number and a colon are its weight."""
    assert [
        (
            ("text", term.text, term.weight)
            if term.image is None
            else ("image", term.image, term.weight)
        )
        for term in parse_query(typed).terms
    ] == terms


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([], "say what to look for"),
        ([""], "an empty text"),
        ([" ", "\t"], "an empty text"),
        (["-"], "no words or picture after it"),
        (["-", "-", "-"], "no words or picture after it"),
        (["cat", "+"], "no words or picture after it"),
        (["cat", "+", "-", "dog"], "no words or picture after it"),
        (["---"], "has only signs"),
        (["-+"], "has only signs"),
        (["-night"], "write the sign by itself"),
        (["a", "car", "--night"], "write the sign by itself"),
        (["+cat"], "write the sign by itself"),
        (["-2:cat"], "write the sign by itself"),
        (["nan:cat"], "the weight nan"),
        (["NaN:./a.png"], "the weight NaN"),
        (["inf:cat"], "the weight inf"),
        (["0:cat"], "the weight 0"),
        (["1e400:cat"], "the weight 1e400"),
        (["1e-400:cat"], "the weight 1e-400"),
        (["1001:cat"], "at most 1000"),
        (["2:"], "an empty text"),
        (["cat", "-", "2:"], "an empty text"),
        (["https://example.org/a.jpg"], "nothing is downloaded"),
        (["cat", "+", "0.5:http://example.org"], "nothing is downloaded"),
        (["a", *["+", "b"] * MOST_TERMS], "33 terms in one query, at most 32"),
    ],
)
def test_what_is_no_query(typed: list[str], words: str) -> None:
    """It is refused with a sentence."""
    with pytest.raises(SearchRefused, match=words):
        parse_query(typed)


def test_as_many_terms_as_there_may_be() -> None:
    """One less than is refused."""
    assert len(parse_query(["a", *["+", "b"] * (MOST_TERMS - 1)]).terms) == MOST_TERMS


@pytest.mark.parametrize("piece", ["a", "1", ":", ".", "/", "a\n", ".jpg", "- ", "1 -"])
def test_query_of_ten_megabytes(piece: str) -> None:
    """It is read at once, where trying every way to read it would take hours.

    The tokenizer refuses it by its length.
    """
    typed = ("a" + piece * 10_000_000)[:10_000_000]
    (term,) = parse_query([typed]).terms
    assert typed.strip() in (term.text, term.image)


@pytest.mark.parametrize("piece", ["-", "+-", "+a", "http://", "a:"])
def test_refusal_of_ten_megabytes(piece: str) -> None:
    """The sentence shows their beginning only."""
    typed = (piece * 10_000_000)[:10_000_000]
    with pytest.raises(SearchRefused) as caught:
        parse_query(["a", "+", f"9999:{typed}"] if piece == "a:" else [typed])
    assert len(str(caught.value)) < 400


def test_heading_reads_as_it_was_typed() -> None:
    """Terms with their signs and weights, in order."""
    query = parse_query(["a", "car", "-", "night", "+", "0.5:./a.png"])
    assert query.heading == "a car - night + 0.5:like ./a.png"
    assert parse_query(["-", "night"]).heading == "- night"
    assert parse_query(["-", "2:night", "+", "3:car"]).heading == "- 2:night + 3:car"
    assert Query(terms=(Term(text="a", weight=3),)).heading == "a"
    like = Query(terms=(Term(like="id"), Term(data="aa", weight=-1)))
    assert like.heading == "like id - like the picture that was sent"


def test_only_term() -> None:
    """That of a query which looks for one thing; what is subtracted cannot be looked for alone."""
    assert parse_query(["0.5:cat"]).only_term == Term(text="cat", weight=0.5)
    for typed in (["-", "0.5:cat"], ["cat", "+", "dog"], ["cat", "-", "dog"]):
        assert parse_query(typed).only_term is None


def test_value_in_a_message() -> None:
    """Sixty characters are shown whole; of a longer one the beginning is."""
    for length, shown in ((60, "x" * 60 + "'"), (61, "x" * 60 + "...'")):
        with pytest.raises(SearchRefused, match="weight '" + re.escape(shown)):
            Term.from_dict({"text": "a", "weight": "x" * length})


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("cat", "a term of a query is an object"),
        (["text", "cat"], "a term of a query is an object"),
        ({"texts": "cat"}, "a term of a query is an object"),
        ({}, "exactly one of text"),
        ({"text": "cat", "like": "x"}, "exactly one of text"),
        ({"text": 7}, "exactly one of text"),
        ({"text": " "}, "an empty text"),
        ({"text": "a", "weight": float("nan")}, "the weight nan: use a number"),
        ({"text": "a", "weight": float("inf")}, "the weight inf: use a number"),
        ({"text": "a", "weight": 0}, "the weight 0"),
        ({"text": "a", "weight": 1001}, "from -1000 to 1000"),
        ({"text": "a", "weight": True}, "the weight True: use a number"),
        ({"text": "a", "weight": "2"}, "the weight '2': use a number"),
        ({"text": "a", "weight": None}, "the weight None: use a number"),
        ({"text": "a", "weight": 10**400}, r"the weight 1000+\.\.\.: use .* from -1000 to 1000"),
        ({"text": "a", "weight": -(10**5000)}, "the weight of thousands of digits"),
    ],
)
def test_term_of_a_job_that_is_none(raw: Any, words: str) -> None:
    """Whatever a job carries is read or refused with a sentence."""
    with pytest.raises(SearchRefused, match=words):
        Term.from_dict(raw)


def test_term_goes_through_a_job_and_back() -> None:
    """A term is the same after it was a job's."""
    for term in (Term(text="a"), Term(image="/a", weight=-2.5), Term(like="x"), Term(data="aa")):
        assert Term.from_dict(term.to_dict()) == term


def test_vector_of_several_terms() -> None:
    """Their weighted sum, of unit length: nearer to what is added, away from what is not."""
    first, second = np.eye(4, dtype=np.float32)[:2]
    for weight in (0.5, 1.0, 2.0):
        assert combine_vectors([(weight, first)]) is first
        np.testing.assert_allclose(combine_vectors([(-weight, first)]), -first)
    between = combine_vectors([(1.0, first), (1.0, second)])
    assert between.dtype == np.float32
    np.testing.assert_allclose(combine_vectors([(-0.5, first)]), -first)
    np.testing.assert_allclose(between, [0.5**0.5, 0.5**0.5, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(
        combine_vectors([(0.6, first), (-0.8, second)]), [0.6, -0.8, 0, 0], rtol=1e-6
    )
    assert np.linalg.norm(combine_vectors([(1000.0, first), (1e-3, second)])) == pytest.approx(1)
    for tiny in (1e-161, 1e-200, 5e-324):  # whose squares are rounded, or nothing
        both = combine_vectors([(tiny, first), (tiny, second)])
        np.testing.assert_allclose(both, between, rtol=1e-6)
    close = combine_vectors([(1.0, first), (0.01, second)])  # and what leads from there to it
    np.testing.assert_allclose(combine_vectors([(1.0, close), (-1.0, first)])[1], 1, atol=1e-3)


def test_vector_of_a_query() -> None:
    """Each term's vector has the term's weight; texts are those of the terms that are texts."""
    rows = dict(zip(("star", "/a.jpg", "night"), np.eye(3, dtype=np.float32), strict=True))
    query = parse_query(["0.6:star", "+", "2:/a.jpg", "-", "night"])
    vector = combine_terms(query, lambda term: rows[term.text or term.image or ""])
    np.testing.assert_allclose(vector, np.array([0.6, 2, -1]) / 5.36**0.5, rtol=1e-6)
    assert query.texts == ["star", "night"]


def test_bounds_of_the_page_are_those_of_queries() -> None:
    """terms.js cannot import them, and repeats them."""
    script = (files("warmclip.serve") / "page" / "terms.js").read_text("utf-8")
    stated = dict(re.findall(r"^const (MOST_\w+) = (\d+);$", script, re.M))
    assert {name: float(number) for name, number in stated.items()} == {
        "MOST_TERMS": MOST_TERMS,
        "MOST_WEIGHT": MOST_WEIGHT,
    }


def test_terms_that_cancel_each_other_out() -> None:
    """Only rounding would tell where to look: refused with a sentence."""
    row = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    unit = row / np.linalg.norm(row)
    for weights in ((1.0, -1.0), (0.1, 0.2, -0.3), (1000.0, -1000.0), (1e-3, -1e-3)):
        with pytest.raises(SearchRefused, match="cancel each other out"):
            combine_vectors([(weight, unit) for weight in weights])


@pytest.mark.parametrize("weight", [1e-3, 1.0, 1000.0])
def test_terms_that_nearly_cancel_each_other_out(weight: float) -> None:
    """What is left must be a ten-thousandth of the weights that led to it, whatever these are."""
    first, second = np.eye(4, dtype=np.float32)[:2]
    for distance, is_enough in ((1e-4, False), (1.9e-4, False), (2.1e-4, True), (4e-4, True)):
        terms = [(weight, first + np.float32(distance) * second), (-weight, first)]
        if is_enough:
            np.testing.assert_allclose(combine_vectors(terms), second, atol=1e-3)
        else:
            with pytest.raises(SearchRefused, match="cancel each other out"):
                combine_vectors(terms)
