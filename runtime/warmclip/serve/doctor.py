"""What the doctor knows without looking for long: verdict, quarantine, queues, workers."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from warmclip.errors import WarmclipError
from warmclip.serve.context import AppContext
from warmclip.serve.problems import RESPONSES, Problem, shown

_DEADLINE_S = 10.0  # a worker may be at a chunk of pictures


class TowerView(BaseModel):
    """Where one half of the model computes."""

    tower: Annotated[str, Field(description="image or text.")]
    chosen: Annotated[str, Field(description="The provider that the verdict names.")]
    now: Annotated[str, Field(description="What computes: another one after a failure.")]
    why: str


class TrialView(BaseModel):
    """One provider tried on one tower; a figure that was not reached is null."""

    provider: str
    tower: str
    passed: bool
    reason: Annotated[str, Field(description="Why it did not pass.")]
    died: bool
    cosine: Annotated[float | None, Field(description="To the golden vectors, the worst row.")]
    images_per_s: Annotated[dict[str, float], Field(description="By batch; texts of a text tower.")]
    load_s: float | None


class QuarantineView(BaseModel):
    """A provider that is passed over for a while."""

    provider: str
    reason: str
    since: Annotated[str, Field(description="ISO 8601, UTC.")]
    until: Annotated[str, Field(description="ISO 8601, UTC.")]


class VerdictView(BaseModel):
    """Of the worker that answered."""

    asked: Annotated[str, Field(description="WARMCLIP_PROVIDER.")]
    towers: list[TowerView]
    trials: list[TrialView]
    passed_over: Annotated[dict[str, str], Field(description="Provider: why it was not tried.")]
    quarantine: list[QuarantineView]
    model: str
    fingerprint: Annotated[str, Field(description="Of the embedding space.")]
    versions: dict[str, str]
    machine: str
    hostname: str
    pid: int


class QueueView(BaseModel):
    """One queue, and how many jobs are in each state."""

    name: str
    queued: int
    started: int
    failed: int


class WorkerView(BaseModel):
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


class DoctorView(BaseModel):
    """All of it."""

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

    verdict: Annotated[VerdictView | None, Field(description="Null if no worker told it.")]
    verdict_missing: Annotated[str | None, Field(description="Why none did.")]
    queues: list[QueueView]
    workers: list[WorkerView]
    failures: Annotated[list[FailedJob], Field(description="The latest 20, the last one first.")]
    dead_letters: Annotated[int, Field(description="Pictures that were set aside.")]


def router(services: AppContext) -> APIRouter:
    """The route of the doctor."""
    routes = APIRouter(prefix="/api/v1", tags=["operation"], responses=RESPONSES)

    @routes.get("/doctor")
    def doctor() -> DoctorView:
        """Ask a worker which provider each tower computes on and why; tell queues and workers.

        Nothing is tried for it: this is what was found when the worker started, and since.
        Whether everything works now, `/healthz` tells.
        """
        status = _legible(services.status().to_dict())
        verdict, missing = None, None
        try:
            verdict = VerdictView.model_validate(
                _legible(services.workers.ask("verdict", timeout_s=_DEADLINE_S))
            )
        except (WarmclipError, Problem) as exc:
            missing = shown(str(exc))
        return DoctorView.model_validate(
            {
                **status,
                "dead_letters": status["dead"],
                "verdict": verdict,
                "verdict_missing": missing,
            }
        )

    return routes


def _legible(value: Any) -> Any:
    """As UTF-8 can carry it: reasons and names may quote what is none."""
    match value:
        case str():
            return shown(value)
        case Mapping():
            return {shown(str(key)): _legible(each) for key, each in value.items()}
        case list() | tuple():
            return [_legible(each) for each in value]
        case _:
            return value
