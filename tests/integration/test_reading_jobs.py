"""How a job is read from a Redis where others may write, and which may refuse to be read."""

from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from standins.redis_server import restricted
from warmclip.work.allowlist import AllowedJob

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("server_binary")]


def put_job(connection: Redis, id_: str) -> Job:
    """One of our own, with a note of its producer."""
    job = Job.create(
        "warmclip.work.jobs.embed_texts",
        (["a"],),
        connection=connection,
        serializer=JSONSerializer,
        id=id_,
        origin="default",
        meta={"noted": "by its producer"},
    )
    job.save()
    return job


def fetch(connection: Redis, id_: Any) -> AllowedJob:
    """As a worker reads it."""
    return AllowedJob.fetch(id_, connection=connection, serializer=JSONSerializer)


@pytest.mark.parametrize("id_", ["gone", "of-another-kind", "a:b", "", 7, None])
def test_what_is_no_job(connection: Redis, id_: Any) -> None:
    """It is said so, whatever stands in its place or is in the queue."""
    connection.set("rq:job:of-another-kind", "a string")
    with pytest.raises(NoSuchJobError):
        fetch(connection, id_)


def test_outcome_that_is_not_there_yet(connection: Redis) -> None:
    """It is looked for, and not waited for."""
    put_job(connection, "one")
    assert fetch(connection, "one").latest_result() is None


def test_several_jobs(connection: Redis) -> None:
    """Each in its place, and nothing in that of what is none."""
    for id_ in ("one", "two"):
        put_job(connection, id_)
    connection.set("rq:job:of-another-kind", "a string")
    found = AllowedJob.fetch_many(
        ["one", "gone", "of-another-kind", "two"], connection=connection, serializer=JSONSerializer
    )
    assert [job and job.id for job in found] == ["one", None, None, "two"]


def test_redis_that_refuses_to_be_read(connection: Redis) -> None:
    """That says nothing about the job: it is no reason to take it for gone."""
    put_job(connection, "one")
    with restricted(connection, "@read") as blind:
        with pytest.raises(NoPermissionError):
            fetch(blind, "one")
        with pytest.raises(NoPermissionError):
            AllowedJob.fetch_many(["one"], connection=blind, serializer=JSONSerializer)


def test_job_that_is_saved_again(connection: Redis) -> None:
    """It has what its producer noted."""
    put_job(connection, "one")
    job = fetch(connection, "one")
    job.save()
    assert fetch(connection, "one").meta == {"noted": "by its producer"}
