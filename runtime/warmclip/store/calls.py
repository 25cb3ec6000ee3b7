"""How one call to a Qdrant server is made: patiently, and with its errors translated to ours."""

import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import stamina
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from warmclip.errors import NotStored, RequestTooLarge, StoreError, StoreUnreachable
from warmclip.store.bounded_transport import AnswerTooLarge
from warmclip.store.question import current_budget

log = logging.getLogger(__name__)

T = TypeVar("T")

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404
_TOO_LARGE, _UNPROCESSABLE, _TOO_MANY_REQUESTS = 413, 422, 429

_FOREIGN = (ValidationError, AnswerTooLarge)  # no answers of Qdrant
_LONGEST_REASON = 2000  # characters
_PAUSE_S = 0.2  # before a question's request is repeated; then longer


class ServerCalls:
    """Repeats a call while the server is away, overloaded or slow, until patience ends.

    Within a ``question`` it ends with the question's budget. Every call that is made through it may
    run twice without harm.
    """

    def __init__(
        self,
        address: str,
        *,
        patience_s: float,
        first_patience_s: float,
        on_retry: Callable[[], object],
    ) -> None:
        self._address = address
        self._first = _retrying(first_patience_s)
        self._later = _retrying(patience_s)
        self._longest_wait_s = patience_s
        self._on_retry = on_retry
        self._answered = False

    def __call__(self, call: Callable[[], T], /) -> T:
        """Return what the call returns, at the latest when patience ends."""
        retrying = self._later if self._answered else self._first
        budget = current_budget()
        if budget is not None and budget.left_s <= 0:
            raise StoreUnreachable(
                f"{self._where} answers too slowly: a question has {budget.seconds:g} s; look at "
                "its load, its memory and its disk, then try again"
            )
        try:
            with nullcontext() if budget is None else budget.spend():
                result = retrying(self._wait_before_next, call)
        except UnexpectedResponse as exc:
            raise self._refusal(exc) from exc
        except ResponseHandlingException as exc:
            raise self._silence(exc.source) from exc
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise StoreUnreachable(
                f"no answer from {self._where} that is JSON: another program answers, such as a "
                "proxy before it; look at that, or correct QDRANT_URL"
            ) from exc
        except AssertionError as exc:  # of its client: JSON without a result
            raise self._foreign_answer() from exc
        except QdrantException as exc:  # a Retry-After that was too long, or no number
            raise StoreUnreachable(f"{self._where} is overloaded: {exc}") from exc
        self._answered = True
        return result

    @property
    def _where(self) -> str:
        return f"Qdrant at {self._address}"

    def _wait_before_next(self, exc: Exception) -> bool | float:
        """Whether to repeat after this error: at the usual pace, or after so many seconds."""
        wait: bool | float = False
        match exc:
            case ResourceExhaustedResponse() if exc.retry_after_s <= self._longest_wait_s:
                wait, what = float(exc.retry_after_s), f"asks for {exc.retry_after_s} s of rest"
            case UnexpectedResponse(status_code=int(status)):
                wait, what = status == _TOO_MANY_REQUESTS or status >= 500, f"answers {status}"
            case ResponseHandlingException(source=source):
                wait, what = not isinstance(source, _FOREIGN), _words(source)
            case json.JSONDecodeError() | UnicodeDecodeError() | RecursionError():
                wait, what = True, "sends an answer that is no JSON"
        budget = current_budget()
        if wait and budget is not None:
            pause_s = _PAUSE_S + budget.spent_s if wait is True else wait
            # An attempt with no time left would end as "timed out", whatever the server says.
            wait = pause_s if pause_s < budget.left_s / 2 else False
        if wait:
            log.warning("%s: %s; trying again", self._where, what)
            self._on_retry()
        return wait

    def _refusal(self, exc: UnexpectedResponse) -> StoreError:
        status = exc.status_code or 0
        reason = _reason(exc.content) or exc.reason_phrase
        if status == _TOO_MANY_REQUESTS or status >= 500:
            return StoreUnreachable(
                f"{self._where} keeps answering {status}: {reason}; look at its log, its memory "
                "and its disk, then try again"
            )
        what = f"{self._where} answers {status}: {reason}"
        # Strict mode says what may be done about a request, and is 400 or 403 by the version.
        is_strict_mode = status == _FORBIDDEN and "Help:" in reason
        if is_strict_mode or status in (_BAD_REQUEST, _TOO_LARGE, _UNPROCESSABLE):
            return RequestTooLarge(f"{self._where} refused with {status}: {reason}")
        if status == _UNAUTHORIZED:
            return StoreError(f"{what}; check QDRANT_API_KEY")
        if status == _FORBIDDEN:
            return StoreError(
                f"{what}; check QDRANT_API_KEY: a key that may only read can search, not index, "
                "and one for some collections may use no other"
            )
        if status == _NOT_FOUND:
            return NotStored(
                f"{what}. If a name leads to a collection that is gone, `warmclip index` makes it "
                "anew; else the key in QDRANT_API_KEY may not see it"
            )
        return StoreError(f"{self._where} refused with {status}: {reason}")

    def _silence(self, source: Exception) -> StoreError:
        if isinstance(source, _FOREIGN):
            return self._foreign_answer()
        return StoreUnreachable(
            f"no answer from {self._where} ({_words(source)}); start it (`make db-up`) or look at "
            "its load, correct QDRANT_URL, or unset it to use the embedded store"
        )

    def _foreign_answer(self) -> StoreError:
        return StoreError(f"{self._where} gave an answer that is not Qdrant's; check QDRANT_URL")


def _retrying(patience_s: float) -> stamina.RetryingCaller:
    return stamina.RetryingCaller(
        attempts=None,
        timeout=patience_s,
        wait_initial=0.1,
        wait_max=5.0,
        wait_jitter=0.5,
    )


def _words(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


def _reason(content: bytes) -> str:
    """What the server says in ``{"status": {"error": ...}}``, or nothing."""
    try:
        return str(json.loads(content)["status"]["error"])[:_LONGEST_REASON]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
