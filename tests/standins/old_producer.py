"""A producer as of rq 2.6.1, run by an interpreter of its own: it has no warmclip.

Its arguments: the address of Redis, then the names of functions to try, each with its arguments in
JSON. It writes one line of JSON for each: the status, and the result or the failure's last line.
"""

import importlib.metadata
import json
import sys
import time

from redis import Redis
from rq import Callback, Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer


def main() -> None:
    """Enqueue everything, then wait for each."""
    address, *rest = sys.argv[1:]
    print(json.dumps({"rq": importlib.metadata.version("rq")}))  # noqa: T201 - its answer
    queue = Queue(connection=Redis.from_url(address), serializer=JSONSerializer)
    for function, arguments in zip(rest[::2], rest[1::2], strict=True):
        options = json.loads(arguments)
        callback = options.pop("on_success", None)
        job = queue.enqueue(
            function,
            args=options["args"],
            retry=Retry(max=1),
            on_success=Callback(callback) if callback else None,
        )
        print(json.dumps(_wait(job)))  # noqa: T201 - its answer


def _wait(job: Job) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while not (job.is_finished or job.is_failed):
        if time.monotonic() > deadline:
            return {"status": "too late"}
        time.sleep(0.05)
    result = job.latest_result()
    failure = (result.exc_string or "").strip().splitlines()[-1:] if result else []
    return {
        "status": job.get_status(),
        "result": result.return_value if result else None,
        "failure": failure[0] if failure else None,
    }


if __name__ == "__main__":
    main()
