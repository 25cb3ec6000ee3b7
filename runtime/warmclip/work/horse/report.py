"""What became of a job in its horse, as a value that travels through the pipe.

The horse writes nothing to Redis: it reports, and the worker records.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from warmclip.work.horse.models import MissedModel

_PART_CHARS = 256 * 1024  # of a text in one message

Outcome = Literal["success", "retry", "requeue", "failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """One outcome of one execution."""

    execution: str
    outcome: Outcome
    # the result in JSON, the retry that the job asked for in JSON, the reason to queue it again as
    # if it had not run, or the traceback
    text: str
    retries_left: int | None = None  # as the job left them; so the next two
    result_ttl: int | None = None
    failure_ttl: int | None = None
    tainted: str = ""  # why the horse leaves after this job
    missed: MissedModel = MissedModel()  # noqa: RUF009 - frozen
    store_retries: int = 0  # requests to a server that were repeated
    points: dict[str, int] = field(default_factory=dict)  # collection -> pictures that it holds

    def messages(self) -> Iterator[dict[str, Any]]:
        """The report in messages of bounded size; the last one is ``done``."""
        fields = asdict(self)
        text = fields.pop("text")
        for start in range(0, len(text), _PART_CHARS):
            yield {"part": text[start : start + _PART_CHARS], "of": self.execution}
        yield {"done": fields.pop("execution"), "chars": len(text), **fields}

    @classmethod
    def read(cls, message: Mapping[str, Any], text: str) -> Self:
        """Put it together again.

        Args:
            message: the last one.
            text: of the parts.
        """
        fields = dict(message)
        fields["missed"] = MissedModel(**fields["missed"])
        if fields.pop("chars") != len(text):
            fields |= {"outcome": "failure"}
            text = "warmclip.errors.HorseDied: the job's result was garbled on its way"
        return cls(execution=fields.pop("done"), text=text, **fields)
