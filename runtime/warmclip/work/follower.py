"""A worker follows its collections to other models: it has its horse replaced by one that has them.

Collections are switched by `warmclip migrate` while workers run. Those that can answer from the
former vectors meanwhile load the other model one after another.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from warmclip.errors import WarmclipError
from warmclip.settings import Settings
from warmclip.work.horse.report import JobReport
from warmclip.work.horse.warm_horse import WarmHorse
from warmclip.work.model_switch import ModelSwitch, Turn, model_to_load

log = logging.getLogger(__name__)

_MOST_WAITS = 8  # of one job, for models; the jobs of other queues may take them away meanwhile
_MOST_REMEMBERED = 100  # jobs that wait; another worker may have ended them


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A model that is to be loaded."""

    fingerprint: str
    changed_ns: int  # its bundle; see ``_latest_change``
    instead_of: str  # the fingerprint of a model that leaves; empty: none need
    loaded: tuple[str, ...]  # those that the horse has, the latest used first


class ModelFollower:
    """What one worker knows of models that it should have.

    Attributes:
        trouble: why it has not loaded one that it should; empty: it has, or soon will.
    """

    def __init__(
        self, connection: Redis, worker: str, settings: Settings, horse: WarmHorse
    ) -> None:
        self.trouble = ""
        self._turn = Turn(connection, worker)
        self._settings = settings
        self._horse = horse
        self._lacking = ""  # the model that the trouble is about
        self._wanted: _Wanted | None = None
        self._cannot_wait = False  # a job was put back for it
        self._waits: dict[str, int] = {}  # job -> how often it was put back
        self._broken: dict[str, int] = {}  # models that could not be loaded -> their changed_ns

    def may_wait(self, job: str) -> bool:
        """Whether a job may be put back once more for a model that is not loaded."""
        return self._waits.get(job, 0) < _MOST_WAITS

    def on_report(self, job: str, report: JobReport) -> None:
        """Take note of what a job has missed."""
        waits = self._waits.pop(job, 0)
        if report.outcome == "requeue":
            self._waits[job] = waits + 1
            if len(self._waits) > _MOST_REMEMBERED:
                self._waits.pop(next(iter(self._waits)))
        missed = report.missed
        if missed.fingerprint:
            self._want(missed.fingerprint, instead_of=missed.instead, loaded=tuple(missed.loaded))
            self._cannot_wait = self._wanted is not None and report.outcome == "requeue"

    def on_switches(self, switches: Sequence[ModelSwitch]) -> None:
        """Take note of what was announced."""
        switch = model_to_load(switches, self._horse.ready.models)
        if self._lacking in self._horse.ready.models or any(
            it.former == self._lacking for it in switches
        ):
            self.trouble = self._lacking = ""
        if switch is not None:
            # A model that another collection was switched to stays: no other note loads it again.
            stays = switch.former in {it.now for it in switches}
            self._want(
                switch.now,
                instead_of="" if stays else switch.former,
                loaded=self._horse.ready.models,
            )

    def follow(self, ensure_horse: Callable[[], None]) -> None:
        """Between two jobs: load what is wanted, if it is this worker's turn.

        Args:
            ensure_horse: starts a horse unless one is ready.

        Raises:
            WarmclipError: none can be had, with the models of before either.
        """
        wanted = self._wanted
        if wanted is None or not (self._turn.take() or self._cannot_wait):
            return
        model, before = wanted.fingerprint, self._horse.choice
        log.info("the model %s is needed now, and is loaded", model[:12])
        try:
            self._horse.choose(
                before.with_model(model, instead_of=wanted.instead_of, loaded=wanted.loaded)
            )
            ensure_horse()
        except WarmclipError as exc:
            log.warning("the model %s cannot be loaded: %s", model[:12], exc)
            self.trouble, self._lacking = f"it cannot be loaded: {exc}", model
            self._broken[model] = wanted.changed_ns
            self._horse.choose(before.without(model))
            ensure_horse()
        finally:
            self._wanted, self._cannot_wait = None, False
            self._turn.pass_on()

    def keep_turn(self) -> None:
        """At each heartbeat: it may take longer to load a model than a turn lasts."""
        self._turn.keep()

    def _want(self, fingerprint: str, *, instead_of: str, loaded: tuple[str, ...]) -> None:
        # What reads manifests costs memory, and most workers never need it.
        from warmclip.indexing.collection_bundle import find_bundle

        if fingerprint in self._horse.ready.models:
            return
        bundle = find_bundle(self._settings, fingerprint)
        if bundle is None:
            trouble = (
                f"there is no bundle of the model {fingerprint[:12]} beside {self._settings.bundle}"
            )
            if trouble != self.trouble:
                log.warning("a collection is of another model now: %s; copy it there", trouble)
            self.trouble, self._lacking = trouble, fingerprint
            return
        changed_ns = _latest_change(bundle)
        if self._broken.get(fingerprint) == changed_ns:
            return  # it was tried, and is still what it was
        self.trouble = self._lacking = ""
        self._wanted = _Wanted(
            fingerprint=fingerprint, changed_ns=changed_ns, instead_of=instead_of, loaded=loaded
        )


def _latest_change(bundle: Path) -> int:
    """When a file of it was written, or came there, in nanoseconds; 0 while it is replaced."""
    try:
        return max(it.stat().st_ctime_ns for it in (bundle, *bundle.iterdir()))
    except OSError:
        return 0
