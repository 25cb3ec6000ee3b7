"""RQ: the private Redis, the worker and its horse, the jobs, and the client that sends them.

The only part of warmclip that uses rq and redis. A call to a worker needs redis alone.
Neither a process that sends jobs nor the worker imports anything here that loads onnxruntime, numpy
or Qdrant's client: those belong to the horse, the process that runs jobs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warmclip.inference.encoder import Encoder


def encoder() -> "Encoder":
    """The warm Encoder of the worker that runs this job, for functions of your own.

    Raises:
        JobRefused: this process is no worker's.
        ForkedSessionError: it was forked from one.
    """
    from warmclip.work.horse.context import current_context

    return current_context().encoder_of(None)
