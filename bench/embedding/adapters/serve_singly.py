"""`warmclip serve` as it was before searches that arrive together became one job."""

from typing import Any

from fastapi import Request

from warmclip.cli import main
from warmclip.serve.workers import WorkerClient


async def _search(self: WorkerClient, request: Request, **arguments: Any) -> Any:
    return await self.call("search", request=request, needs_store=True, **arguments)


if __name__ == "__main__":
    WorkerClient.search = _search  # type: ignore[method-assign]  # the comparison's whole point
    main()
