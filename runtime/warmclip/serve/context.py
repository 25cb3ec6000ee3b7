"""What the routes use, made once by whoever starts the server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from warmclip.indexing.roots import Roots
from warmclip.serve.streams import Streams
from warmclip.serve.workers import WorkerClient
from warmclip.settings import Settings
from warmclip.work.sessions.commands import SessionCommands
from warmclip.work.sessions.scheduler import SessionScheduler
from warmclip.work.status import QueueStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class AppContext:
    """Settings, and the connections to sessions and workers."""

    settings: Settings
    roots: Roots
    sessions: SessionCommands
    scheduler: SessionScheduler
    workers: WorkerClient
    read_status: Callable[[], QueueStatus]
    read_counters: Callable[[], Mapping[str, int]]
    streams: Streams
    hosts: tuple[str, ...] = ()  # names by which requests may call the server
