"""Arguments of jobs, checked before anything is opened for them."""

import base64
import uuid
from pathlib import Path
from typing import Any

from warmclip.errors import JobRefused
from warmclip.indexing.query import Query, Term
from warmclip.indexing.roots import is_absolute
from warmclip.settings import Settings
from warmclip.shown import show_path, show_value


def check_items(items: Any, what: str, settings: Settings) -> None:
    """Refuse what is no list of str, or too long.

    Raises:
        JobRefused: with the bound and its variable.
    """
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise JobRefused(f"{what} must be a list of strings")
    most = settings.limits.job_items
    if len(items) > most:
        raise JobRefused(
            f"{len(items)} {what} in one job, at most {most} are accepted "
            "(WARMCLIP_MAX_JOB_ITEMS); cut it into several"
        )


def check_questions(questions: Any, settings: Settings) -> None:
    """Refuse what is no list of the arguments of ``search``, too long, or of several models.

    A horse may not hold all the models that one job names.

    Raises:
        JobRefused: with what there should be, or the bound and its variable.
    """
    if not isinstance(questions, list) or not all(isinstance(it, dict) for it in questions):
        raise JobRefused("questions must be a list of dicts of the arguments of search")
    check_items([str(question.get("text")) for question in questions], "questions", settings)
    if any(question.get("model") != questions[0].get("model") for question in questions):
        raise JobRefused("the questions name several models; ask those of each in a job of its own")


def check_paths(paths: Any, settings: Settings) -> None:
    """Refuse a job whose paths nobody could mean, before any file is looked at.

    Whether a path lies in the roots is found out when it is its turn: one that does not is
    skipped, and its neighbours are not.

    Args:
        paths: what the job names.
        settings: whose Redis, roots and bounds to go by.

    Raises:
        JobRefused: naming the path.
    """
    check_items(paths, "paths", settings)
    check_roots(settings)
    for path in paths:
        if not _is_plain(path):
            raise JobRefused(f"{show_path(path)} is not an absolute path without '..'")


def check_roots(settings: Settings) -> None:
    """Refuse to open files for jobs of a shared Redis unless roots are set.

    Raises:
        JobRefused: naming the variable.
    """
    if not settings.roots and settings.redis_url is not None:
        raise JobRefused(
            "this worker takes jobs from a shared Redis (REDIS_URL) and has no roots, so it opens "
            "no files for them; set WARMCLIP_ROOTS to the folders that jobs may name"
        )


def decode_picture(data: Any) -> bytes:
    """The bytes of a picture that a job carries.

    Raises:
        JobRefused: they are not in base64.
    """
    try:
        return base64.b64decode(data, validate=True)
    except (ValueError, TypeError) as exc:
        raise JobRefused("data must be the bytes of a picture in base64") from exc


def read_query(text: Any, image: Any, data: Any, like: Any, terms: Any) -> Query:
    """What the job ``search`` looks for: see its arguments.

    Raises:
        JobRefused: not exactly one of them is given.
        SearchRefused: what is given is no query.
    """
    match text, image, data, like, terms:
        case (
            (str(), None, None, None, None)
            | (None, str(), None, None, None)
            | (None, None, str(), None, None)
            | (None, None, None, str(), None)
        ):
            return Query(terms=(Term(text=text, image=image, data=data, like=like),))
        case None, None, None, None, list():
            return Query(terms=tuple(Term.from_dict(term) for term in terms))
        case _:
            raise JobRefused("search for exactly one of text, image, data, like and terms")


def point_id(id_: Any) -> str:
    """A picture's id as the store writes it.

    Raises:
        JobRefused: it is no UUID.
    """
    try:
        return str(uuid.UUID(id_))
    except (ValueError, TypeError, AttributeError) as exc:
        raise JobRefused(f"{show_value(id_)} is no id of a picture: it is a UUID") from exc


def _is_plain(path: str) -> bool:
    """Whether it is an absolute path without "..", which could ask what lies outside."""
    return is_absolute(path) and ".." not in Path(path).parts
