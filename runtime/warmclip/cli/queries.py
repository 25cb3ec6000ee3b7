"""Queries on the command line: words, and pictures that are files or on standard input."""

import base64
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from warmclip.cli.paths import parse_path
from warmclip.errors import ImageUnavailable, SettingsError
from warmclip.indexing.query import Query, Term, parse_query, refuse_url
from warmclip.inference.reading import FileReader
from warmclip.settings import Limits


def read_queries(
    words: Sequence[str], images: Sequence[str], limits: Limits, *, each: bool
) -> list[Query]:
    """What the command line looks for; pictures are there, and have absolute paths.

    Args:
        words: the arguments, as ``parse_query`` takes them.
        images: of each ``--image``; ``-`` is what is read from standard input.
        limits: ``image_bytes`` bounds what is read from standard input.
        each: whether each of these is a query of its own.

    Raises:
        SettingsError: nothing is looked for, there is no such file, or standard input is closed,
            or has nothing or too much.
        SearchRefused: what is no query.
        BadParameter: a picture's path is empty.
    """
    if images.count("-") > 1:
        raise SettingsError("--image - twice: standard input has one picture")
    reader = FileReader(limits)
    pictures = [name_picture(image, reader) for image in images]
    if each:
        queries = [locate_pictures(parse_query([word]), reader) for word in words]
        queries += [Query(terms=(picture,)) for picture in pictures]
    elif words or pictures:
        terms = locate_pictures(parse_query(words), reader).terms if words else ()
        queries = [Query(terms=(*terms, *pictures))]
    else:
        raise SettingsError("say what to look for: words, or --image FILE")
    return [Query(terms=tuple(_read_input(it, limits) for it in query.terms)) for query in queries]


def name_picture(image: str, reader: FileReader) -> Term:
    """The picture of ``--image``, with its absolute path; of standard input, ``-``.

    Raises:
        SettingsError: there is no such file, or it cannot be looked at, also as its disk does not
            answer.
        SearchRefused: it is a URL.
        BadParameter: it is empty.
    """
    refuse_url(image)
    if image == "-":
        return Term(image=image)
    return Term(image=_find_file(parse_path(image), f"--image {image}", reader))


def locate_pictures(query: Query, reader: FileReader) -> Query:
    """A query as it was typed, with absolute paths of its pictures.

    Raises:
        SettingsError: there is no such file, or it cannot be looked at.
    """
    return Query(terms=tuple(_locate(term, reader) for term in query.terms))


def _locate(term: Term, reader: FileReader) -> Term:
    if term.image is None:
        return term
    advice = "; to look for it as words, add another word"
    return replace(term, image=_find_file(Path(term.image), term.image, reader, advice))


def _find_file(path: Path, name: str, reader: FileReader, advice: str = "") -> str:
    """The absolute path of a file that is there; errors have its name before, and the advice."""
    why = "there is no such file"
    try:
        found = path.expanduser().absolute()
        if reader.read(found.is_file):
            return str(found)
    except ImageUnavailable as exc:
        why, advice = str(exc), ""
    except RuntimeError:
        why = "there is no such home folder"
    except OSError as exc:  # a name that is too long, or a folder that may not be looked into
        why = str(exc.strerror)
    raise SettingsError(f"{name}: {why}{advice}")


def _read_input(term: Term, limits: Limits) -> Term:
    """The same, or for ``-`` what standard input has."""
    if term.image != "-":
        return term
    if sys.stdin is None:
        raise SettingsError("--image -: standard input is closed")
    data = sys.stdin.buffer.read(limits.image_bytes + 1)
    if not data:
        raise SettingsError("--image -: there is nothing on standard input")
    if len(data) > limits.image_bytes:
        raise SettingsError(
            f"--image -: more than {limits.image_bytes:,} bytes (WARMCLIP_MAX_IMAGE_BYTES)"
        )
    return replace(term, image=None, data=base64.b64encode(data).decode("ascii"))
