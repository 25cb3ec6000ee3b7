"""The trials that were run on this machine, kept in ``<home>/verdicts`` for all its processes.

A trial counts for one bundle, one definition of the provider, one build of onnxruntime, one build
of the operating system and one chip.
"""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from pathlib import Path

from warmclip.errors import CacheUnusable
from warmclip.fsutil import replace_file
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.machine import chip, os_build
from warmclip.inference.ort.compiled import CompiledModels
from warmclip.inference.ort.loading import onnxruntime_build
from warmclip.inference.ort.model_cache import ModelCache
from warmclip.inference.providers import Provider
from warmclip.inference.selection.trial import Trial
from warmclip.inference.selection.trial_process import run_trial

log = logging.getLogger(__name__)

_FOLDER = "verdicts"


def trials_folder(home: Path) -> Path:
    """Where the trials of a WARMCLIP_HOME are kept."""
    return home / _FOLDER


def forget_trials(home: Path, name: str | None = None) -> int:
    """Let a provider, a family, or every provider be tried again; returns the trials forgotten.

    One in quarantine is not tried before ``Quarantine.clear`` as well.
    """
    forgotten = 0
    for file in sorted(trials_folder(home).glob("*.json")):
        provider = file.name.partition("@")[0]
        if name is None or name in (provider, provider.partition("-")[0]):
            file.unlink(missing_ok=True)
            forgotten += 1
    return forgotten


class TrialStore:
    """The kept trials of one bundle.

    Attributes:
        lock: the file that one process at a time holds while it runs a trial.
    """

    def __init__(self, bundle: ModelBundle, home: Path, threads: int) -> None:
        self._bundle = bundle
        self._home = home
        self._threads = threads
        self.lock = trials_folder(home) / ".lock"

    def find_trial(self, provider: Provider, tower: Tower) -> Trial | None:
        """The trial of a provider on a tower; None if there is none, or none that can be read."""
        file = self._file(provider, tower)
        try:
            return Trial.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            log.warning("%s cannot be read, trying the provider again: %r", file, exc)
            return None

    def run_trial(
        self, provider: Provider, tower: Tower, deadline_s: float, waiting: Callable[[], None]
    ) -> Trial:
        """Run a trial and keep it, unless it only shows that this machine was too busy or too full.

        Args:
            provider: an entry of the table.
            tower: image or text.
            deadline_s: for the trial.
            waiting: called about every second.
        """
        try:
            self._compiled(provider, tower).require_space()
            trial = run_trial(
                self._bundle,
                provider,
                tower,
                home=self._home,
                threads=self._threads,
                deadline_s=deadline_s,
                waiting=waiting,
            )
        except CacheUnusable as exc:  # also where others have filled the disk meanwhile
            log.warning("%s is not tried on %ss: %s", provider.name, tower, exc)
            return Trial(provider=provider.name, tower=tower, passed=False, reason=str(exc))
        if not trial.passed:
            log.warning("%s is not used on %ss: %s", provider.name, tower, trial.reason)
        if trial.passed or not provider.is_reference:
            try:
                replace_file(self._file(provider, tower), json.dumps(trial.to_dict(), indent=2))
            except OSError as exc:
                log.warning("the trial of %s is not kept: %s", provider.name, exc)
        return trial

    def remove_compiled(self, provider: Provider, tower: Tower) -> None:
        """Delete what a provider has compiled of a tower, as far as nobody loads it just now."""
        self._compiled(provider, tower).remove()

    def _compiled(self, provider: Provider, tower: Tower) -> CompiledModels:
        record = self._bundle.graph_record(tower, provider.precision)
        return CompiledModels(
            graph=self._bundle.folder / record.file,
            provider=provider,
            digest=record.digest,
            size_bytes=record.total_bytes,
            length=self._bundle.manifest.tokenizer.context_length,
            cache=ModelCache(self._home),
        )

    def _file(self, provider: Provider, tower: Tower) -> Path:
        manifest = self._bundle.manifest
        graph = manifest.graphs.get(tower, {}).get(provider.precision)
        identity = {
            "warmclip": importlib.metadata.version("warmclip"),
            "fingerprint": manifest.fingerprint,
            "graph": graph.digest if graph is not None else None,
            "golden": manifest.golden.sha256,
            "provider": provider.identity(),
            "threads": self._threads,
            "onnxruntime": onnxruntime_build(),
            "os": os_build(),
            "chip": chip(),
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return trials_folder(self._home) / f"{provider.name}@{tower}@{digest[:24]}.json"
