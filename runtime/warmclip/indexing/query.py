"""What a search looks for: words and pictures, with weights, added and subtracted."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from warmclip.errors import SearchRefused
from warmclip.indexing.walk import IMAGE_SUFFIXES
from warmclip.number import check_number
from warmclip.shown import show_value

MOST_TERMS = 32
"""Words and pictures in one query."""

MOST_WEIGHT = 1_000.0
"""Of a term, and as much below zero."""

_SIGNS = {"+": 1.0, "-": -1.0}
_PATHS = ("/", "./", "../", "~/")
_URLS = ("http://", "https://")
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?", re.ASCII | re.I)
_LONGEST_NUMBER = 24  # characters: what is longer is no weight that anybody means


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One text or picture in a query: exactly one of the four."""

    text: str | None = None
    image: str | None = None  # a picture's path
    data: str | None = None  # a picture's bytes, in base64
    like: str | None = None  # the id of a stored picture
    weight: float = 1.0  # below zero: it is subtracted

    def __post_init__(self) -> None:
        """Refuse what is no term.

        Raises:
            SearchRefused: not exactly one of the four is given, an empty text, or a weight that
                is zero, too large or no number.
        """
        given = [it for it in (self.text, self.image, self.data, self.like) if it is not None]
        if len(given) != 1 or not isinstance(given[0], str):
            raise SearchRefused("search for exactly one of text, image, data and like")
        if self.text is not None and not self.text.strip():
            raise SearchRefused("an empty text is like nothing: say what to look for")
        if not check_number(self.weight, "the weight ", most=MOST_WEIGHT):
            raise SearchRefused("the weight 0 has a term without effect: leave it out")

    @property
    def name(self) -> str:
        """What it is called in headings, without its weight."""
        if self.text is not None:
            return self.text
        if self.image is not None:
            return f"like {self.image}"
        return "like the picture that was sent" if self.data is not None else f"like {self.like}"

    def to_dict(self) -> dict[str, Any]:
        """As a job carries it: what ``from_dict`` takes."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """The inverse of ``to_dict``, of anything.

        Raises:
            SearchRefused: it is no term.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(raw, Mapping) or not known.issuperset(raw):
            raise SearchRefused(f"a term of a query is an object of {', '.join(sorted(known))}")
        return cls(**raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Terms whose vectors are added up; at least one."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        """Refuse a query without terms, or with too many.

        Raises:
            SearchRefused: with what there may be.
        """
        if not self.terms:
            raise SearchRefused("say what to look for: words, or a picture")
        if len(self.terms) > MOST_TERMS:
            raise SearchRefused(f"{len(self.terms)} terms in one query, at most {MOST_TERMS}")

    @property
    def heading(self) -> str:
        """What to write above the hits."""
        return "".join(_parts_of_heading(self.terms))

    @property
    def texts(self) -> list[str]:
        """Of the terms that are texts, in their order."""
        return [term.text for term in self.terms if term.text is not None]

    @property
    def only_term(self) -> Term | None:
        """The term of a query that has but one, which is not subtracted."""
        return self.terms[0] if len(self.terms) == 1 and self.terms[0].weight > 0 else None


def parse_query(arguments: Sequence[str]) -> Query:
    """Read a query as people type it: ``a red car - night + 0.5:photo.jpg``.

    ``+`` and ``-`` that stand alone begin another term, which is added or subtracted. Arguments
    between them are the words of one text. A term that is one argument and looks like a picture's
    path, by its suffix or by a beginning such as ``./``, is that picture. ``2:`` before a term is
    its weight, unless a digit follows, as in a time of day.

    Args:
        arguments: of a command line.

    Raises:
        SearchRefused: there is nothing to look for, a sign without a term, a sign that begins a
            word, a weight that is none, or a URL.
    """
    words: list[list[str]] = [[]]
    signs = [1.0]
    for place, argument in enumerate(arguments):
        if argument in _SIGNS:
            if place == 0:
                signs[0] = _SIGNS[argument]
                continue
            _check_words(words[-1])
            signs.append(_SIGNS[argument])
            words.append([])
            continue
        if argument.startswith(tuple(_SIGNS)):
            raise SearchRefused(_sign_in_word(argument))
        words[-1].append(argument)
    if arguments:
        _check_words(words[-1])
    return Query(
        terms=tuple(
            _parse_term(some, sign) for some, sign in zip(words, signs, strict=True) if some
        )
    )


def refuse_url(path: str) -> None:
    """Refuse a picture's address: whoever wants it downloads it.

    Raises:
        SearchRefused: with how.
    """
    if path.startswith(_URLS):
        raise SearchRefused(
            f"{show_value(path)}: nothing is downloaded; pipe the picture in: "
            "`curl -s URL | warmclip search --image -`"
        )


def _check_words(words: Sequence[str]) -> None:
    if not words:
        raise SearchRefused("a plus or minus sign has no words or picture after it")


def _sign_in_word(argument: str) -> str:
    if not argument.strip("+-"):
        return f"{show_value(argument)} has only signs: say what to look for"
    return (
        f"{show_value(argument)} begins with a sign: write the sign by itself, as in `a car - "
        "night`, or let the text begin with another word"
    )


def _parse_term(words: Sequence[str], sign: float) -> Term:
    weight, first = _split_weight(words[0])
    alone = first if len(words) == 1 else ""
    refuse_url(alone)
    if _is_picture(alone):
        return Term(image=alone, weight=sign * weight)
    return Term(text=" ".join([first, *words[1:]]).strip(), weight=sign * weight)


def _split_weight(word: str) -> tuple[float, str]:
    """The weight that a term's first word begins with, and the rest of the word."""
    number, colon, rest = word.partition(":")
    if not colon or rest[:1].isdigit() or len(number) > _LONGEST_NUMBER:
        return 1.0, word
    if _NUMBER.fullmatch(number) is None:
        return 1.0, word
    weight = float(number)
    if not 0 < weight <= MOST_WEIGHT:
        raise SearchRefused(
            f"{show_value(word)}: the weight {number} is not above 0 and at most {MOST_WEIGHT:g}"
        )
    return weight, rest


def _is_picture(argument: str) -> bool:
    if argument.startswith(_PATHS):
        return True
    return argument.lower().endswith(IMAGE_SUFFIXES) and not any(map(str.isspace, argument))


def _parts_of_heading(terms: Sequence[Term]) -> Iterator[str]:
    for place, term in enumerate(terms):
        sign = "-" if term.weight < 0 else "+"
        if place:
            yield f" {sign} "
        elif term.weight < 0:
            yield "- "
        if not math.isclose(abs(term.weight), 1.0) and len(terms) > 1:
            yield f"{abs(term.weight):g}:"
        yield term.name
