"""What is lost or twice of an application of examples/: its tasks, rows, points and thumbnails."""

from pathlib import Path

import numpy as np
from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.results import Result
from rq.serializers import JSONSerializer
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from application import QUEUES, Application
from photoservice.database import COMPLETED, Picture, Task
from photoservice.vectors import COLLECTION, point_id
from standins.qdrant import Engine
from warmclip.inference.encoder import Encoder

_SAMPLE = 50


def find_faults(app: Application, connection: Redis, store: Engine, encoder: Encoder) -> list[str]:
    """Compare everything with everything, once all is done; each fault is a sentence."""
    engine = create_engine(app.environment["DATABASE_URL"])
    with Session(engine) as session:
        tasks = list(session.scalars(select(Task)))
        pictures = list(session.scalars(select(Picture)))
    engine.dispose()
    faults = [*_of_tasks(tasks, connection), *_of_queues(connection)]
    faults += _of_pictures(pictures, Path(app.environment["PHOTOS_DATA"]))
    return faults + _of_points(pictures, store, encoder)


def _of_tasks(tasks: list[Task], connection: Redis) -> list[str]:
    """Each is completed, and RQ has one result of it."""
    faults = []
    for task in tasks:
        if task.status != COMPLETED:
            faults.append(f"task {task.id} is {task.status}: {task.error}")
        try:
            job = Job.fetch(task.id, connection, JSONSerializer)
        except NoSuchJobError:
            faults.append(f"task {task.id} has no job")
            continue
        if job.get_status() != JobStatus.FINISHED:
            faults.append(f"job {task.id} is {job.get_status()}")
        done = [it for it in job.results() if it.type == Result.Type.SUCCESSFUL]
        if len(done) != 1:
            faults.append(f"job {task.id} has {len(done)} results")
    return faults


def _of_queues(connection: Redis) -> list[str]:
    """No job is left anywhere, and none has failed."""
    faults = []
    for name in QUEUES:
        queue = Queue(name, connection=connection, serializer=JSONSerializer)
        left = {
            "queue": queue.job_ids,
            "intermediate list": queue.intermediate_queue.get_job_ids(),
            "started": queue.started_job_registry.get_job_ids(cleanup=False),
            "failed": queue.failed_job_registry.get_job_ids(cleanup=False),
            "scheduled": queue.scheduled_job_registry.get_job_ids(cleanup=False),
            "deferred": queue.deferred_job_registry.get_job_ids(cleanup=False),
        }
        faults += [f"{name}, {where}: {ids}" for where, ids in left.items() if ids]
    return faults


def _of_pictures(pictures: list[Picture], data: Path) -> list[str]:
    """Each row is final; what was indexed has a hash and a thumbnail."""
    faults = []
    for picture in pictures:
        should_be = "unreadable" if Path(picture.path).name == "none.png" else "indexed"
        if picture.status != should_be:
            faults.append(f"picture {picture.path} is {picture.status}")
        elif should_be == "indexed" and "uploads" not in picture.path:
            if picture.look is None:
                faults.append(f"picture {picture.path} has no hash")
            if not (data / "thumbnails" / f"{picture.id}.jpg").is_file():
                faults.append(f"picture {picture.path} has no thumbnail")
    return faults


def _of_points(pictures: list[Picture], store: Engine, encoder: Encoder) -> list[str]:
    """Every picture is in the store once; a sample has the model's own vectors."""
    expected = {point_id(it.path): it.path for it in pictures if it.status == "indexed"}
    found = store.scroll(COLLECTION, {"limit": len(expected) + 1000, "with_vector": True})["points"]
    stored = {it["id"]: it for it in found}
    faults = [f"{path} is not in the store" for id_, path in expected.items() if id_ not in stored]
    faults += [f"point {id_} is of no picture" for id_ in stored.keys() - expected.keys()]
    if len(found) != len(stored):
        faults.append(f"the store has {len(found)} points, of which {len(stored)} are different")
    sample = [id_ for id_ in sorted(expected) if id_ in stored][:_SAMPLE]
    vectors = encoder.encode_images([expected[id_] for id_ in sample])
    for id_, vector in zip(sample, vectors, strict=True):
        if not np.allclose(stored[id_]["vector"], vector, atol=1e-5):
            faults.append(f"the vector of {expected[id_]} is another one")
    return faults
