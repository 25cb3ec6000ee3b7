"""The state of the system: providers of a worker, quarantine, queues, workers, failed jobs."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from warmclip.errors import WarmclipError
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, as_utf8
from warmclip.serve.threads import run_redis
from warmclip.serve.workers import read_answer

_DEADLINE_S = 10.0  # a worker may be at a chunk of pictures


class Tower(BaseModel):
    """The provider that one tower of the model computes on."""

    tower: Annotated[str, Field(description="image or text.")]
    chosen: Annotated[str, Field(description="The provider that was selected.")]
    now: Annotated[
        str, Field(description="The provider that computes: another one after a failure.")
    ]
    why: str


class ProviderTrial(BaseModel):
    """One provider tried on one tower; a figure that was not measured is null."""

    provider: str
    tower: str
    passed: bool
    reason: Annotated[str, Field(description="Why it did not pass.")]
    died: bool
    cosine: Annotated[float | None, Field(description="To the golden vectors, the worst row.")]
    images_per_s: Annotated[dict[str, float], Field(description="By batch; texts of a text tower.")]
    load_s: float | None


class QuarantinedProvider(BaseModel):
    """A provider that is not used for a while."""

    provider: str
    reason: str
    since: Annotated[str, Field(description="ISO 8601, UTC.")]
    until: Annotated[str, Field(description="ISO 8601, UTC.")]


class ProviderSelection(BaseModel):
    """The providers that the worker which answered has selected."""

    asked: Annotated[str, Field(description="WARMCLIP_PROVIDER.")]
    towers: list[Tower]
    trials: list[ProviderTrial]
    passed_over: Annotated[dict[str, str], Field(description="Provider: why it was not tried.")]
    quarantine: list[QuarantinedProvider]
    model: str
    fingerprint: Annotated[str, Field(description="Of the embedding space.")]
    versions: dict[str, str]
    machine: str
    hostname: str
    pid: int


class Queue(BaseModel):
    """One queue, and the jobs in each state."""

    name: str
    queued: int
    started: int
    failed: int


class Worker(BaseModel):
    """One worker that is registered and, as far as can be seen from here, alive."""

    name: str
    state: str
    queues: list[str]
    at: Annotated[
        tuple[int, int, str] | None, Field(description="How far its job is: done, total, stage.")
    ]
    hostname: str
    pid: int
    last_heartbeat: Annotated[str | None, Field(description="ISO 8601, UTC.")]


class FailedJob(BaseModel):
    """One job that failed for good."""

    function: str
    reason: str
    ended_at: Annotated[str | None, Field(description="ISO 8601, UTC.")]


class DoctorResponse(BaseModel):
    """Providers, queues, workers and failed jobs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "verdict": None,
                    "verdict_missing": "no worker is listening on the queue 'high'; run `warmclip "
                    "worker`",
                    "queues": [{"name": "default", "queued": 16, "started": 0, "failed": 0}],
                    "workers": [],
                    "failures": [],
                    "dead_letters": 0,
                }
            ]
        }
    )

    verdict: Annotated[ProviderSelection | None, Field(description="Null if no worker told it.")]
    verdict_missing: Annotated[str | None, Field(description="Why none did.")]
    queues: list[Queue]
    workers: list[Worker]
    failures: Annotated[list[FailedJob], Field(description="The latest 20, the last one first.")]
    dead_letters: Annotated[int, Field(description="Pictures that were set aside.")]


def make_router(context: AppContext) -> APIRouter:
    """Make the route of the doctor."""
    router = APIRouter(prefix="/api/v1", tags=["operation"], responses=RESPONSES)

    @router.get("/doctor")
    async def get_doctor_report(request: Request) -> DoctorResponse:
        """Get which provider each tower of a worker computes on and why, queues and workers.

        No provider is tried for it: this is what the worker found at its start, and since.
        `/healthz` tells whether everything works now.
        """
        status = _as_utf8((await run_redis(context.read_status)).to_dict())
        verdict, missing = None, None
        try:
            answer = await context.workers.call("verdict", request=request, timeout_s=_DEADLINE_S)
            verdict = read_answer(_as_utf8(answer), ProviderSelection.model_validate)
        except (WarmclipError, Problem) as exc:
            missing = as_utf8(str(exc))
        return DoctorResponse.model_validate(
            {
                **status,
                "dead_letters": status["dead"],
                "verdict": verdict,
                "verdict_missing": missing,
            }
        )

    return router


def _as_utf8(value: Any) -> Any:
    """The same value with its texts as UTF-8: reasons and names may hold other bytes."""
    match value:
        case str():
            return as_utf8(value)
        case Mapping():
            return {as_utf8(str(key)): _as_utf8(each) for key, each in value.items()}
        case list() | tuple():
            return [_as_utf8(each) for each in value]
        case _:
            return value
