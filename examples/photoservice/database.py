"""The application's own database: a row for each picture, and one for each task."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

COMPLETED, FAILED = "completed", "failed"
FINAL = (COMPLETED, FAILED)


class Base(DeclarativeBase):
    """What SQLAlchemy makes tables of."""


class Picture(Base):
    """One file. Its status is new, indexed or unreadable."""

    __tablename__ = "pictures"
    id: Mapped[int] = mapped_column(primary_key=True)
    album: Mapped[str] = mapped_column(index=True)
    path: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str] = mapped_column(default="new")
    look: Mapped[str | None]  # a hash of how it looks


class Task(Base):
    """One job, under the id that RQ knows it by. Its status is queued, running or a final one."""

    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(default="queued")
    error: Mapped[str | None]


@cache
def engine() -> Engine:
    """This process's connections, made at the first use: after any fork, and not at an import."""
    made = create_engine(os.environ["DATABASE_URL"], connect_args={"timeout": 60})
    event.listen(made, "connect", _prepare)
    Base.metadata.create_all(made)
    return made


def _prepare(connection: object, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[attr-defined]  # sqlite3's


@contextmanager
def transaction() -> Iterator[Session]:
    """A session that commits at the end of the block."""
    with Session(engine(), expire_on_commit=False) as session, session.begin():
        yield session
