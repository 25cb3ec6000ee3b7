"""Which provider each tower uses on this machine, and why.

``select_providers`` tries what was not tried yet; ``read_selection`` tries nothing. Both return a
``ProviderSelection``, whose ``to_dict`` is what `warmclip doctor` shows.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from warmclip.errors import BundleError, ProviderUnavailable
from warmclip.fsutil import file_lock, private_folder
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.ort.loading import candidates
from warmclip.inference.providers import PROVIDERS, Provider
from warmclip.inference.selection.quarantine import Quarantine
from warmclip.inference.selection.trial import Trial
from warmclip.inference.selection.trial_store import TrialStore, trials_folder
from warmclip.progress import Progress

DEADLINE_S = 300.0
TOWERS: tuple[Tower, ...] = get_args(Tower)

# What a provider must be faster by than the CPU: timings are noisy, and every provider but the
# reference costs canaries, memory and trust.
_WORTH_IT = 1.1
# Pictures come in batches, searches one text at a time.
_DECIDING_BATCH: dict[Tower, int] = {"image": 32, "text": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSelection:
    """What was found of each provider that a choice may come down to, and what is used.

    Attributes:
        asked: the choice: "auto", a family or a provider.
        chosen: tower -> the provider's name.
        why: tower -> one sentence.
        trials: one for each tower and each provider that was tried.
        passed_over: provider -> why it was not tried: not in this onnxruntime, without a graph
            in this bundle, or in quarantine.
    """

    asked: str
    chosen: dict[Tower, str]
    why: dict[Tower, str]
    trials: tuple[Trial, ...]
    passed_over: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The selection as JSON can carry it."""
        return asdict(self)


def select_providers(
    bundle: ModelBundle,
    choice: str,
    *,
    home: Path,
    threads: int = 0,
    deadline_s: float = DEADLINE_S,
    try_all: bool = False,
    progress: Progress | None = None,
) -> ProviderSelection:
    """The provider of each tower; what was not tried yet is tried now, in throw-away processes.

    Where there is nothing to choose, nothing is tried: with the CPU alone, or with one provider
    asked for by its own name.

    Args:
        bundle: the model.
        choice: "auto", a family or a provider.
        home: where trials and the quarantine are kept.
        threads: of a session; 0 for as many as there are usable cores.
        deadline_s: for one provider on one tower.
        try_all: also try what would be used anyway.
        progress: told (done, total, stage), about every second.

    Raises:
        SettingsError: there is no such choice.
        ProviderUnavailable: what was asked for is not there, has no graph in this bundle, is in
            quarantine, or failed.
        BundleError: not even the CPU reproduces the golden vectors.
    """
    eligible = _EligibleProviders.find(bundle, choice, home)
    if not eligible.needs_trial and not try_all:
        return eligible.select_without_trial()
    private_folder(home, private=False)
    private_folder(trials_folder(home), private=False)
    trials = TrialStore(bundle, home, threads)
    done, total = 0, len(TOWERS) * len(eligible.providers)

    def tell(stage: str) -> None:
        if progress is not None:
            progress(done, total, stage)

    found, fresh = [], []
    for provider in eligible.providers:
        for tower in TOWERS:
            trial = trials.find_trial(provider, tower)
            if trial is None:
                waiting = partial(tell, f"trying {provider.name} on {tower}s")
                with file_lock(trials.lock, waiting=waiting):
                    trial = trials.find_trial(provider, tower)  # of whom this has waited for
                    if trial is None:
                        trial = trials.run_trial(provider, tower, deadline_s, waiting)
                        fresh.append((provider, tower))
            found.append(trial)
            done += 1
    selection = eligible.select(found)
    for provider, tower in fresh:
        if selection.chosen[tower] != provider.name:
            trials.remove_compiled(provider, tower)
    return selection


def read_selection(
    bundle: ModelBundle, choice: str, *, home: Path, threads: int = 0
) -> ProviderSelection | None:
    """The selection by the trials that are kept, without a new one; None if a trial is missing.

    Raises:
        SettingsError, ProviderUnavailable, BundleError: as ``select_providers``.
    """
    eligible = _EligibleProviders.find(bundle, choice, home)
    trials = TrialStore(bundle, home, threads)
    found = [
        trials.find_trial(provider, tower) for provider in eligible.providers for tower in TOWERS
    ]
    known = [trial for trial in found if trial is not None]
    if len(known) == len(found):
        return eligible.select(known)
    return None if eligible.needs_trial else eligible.select_without_trial()


@dataclass(frozen=True, slots=True, kw_only=True)
class _EligibleProviders:
    """The providers that a choice may come down to, and those that it cannot."""

    asked: str
    providers: tuple[Provider, ...]
    passed_over: dict[str, str]

    @classmethod
    def find(cls, bundle: ModelBundle, choice: str, home: Path) -> "_EligibleProviders":
        found = candidates(choice)
        eligible, passed_over = [], dict(found.absent)
        quarantine = Quarantine(home)
        for provider in found.here:
            why = None if provider.is_reference else _obstacle(provider, bundle, quarantine)
            if why is None:
                eligible.append(provider)
            else:
                passed_over[provider.name] = why
        if not eligible:
            raise ProviderUnavailable(
                "; ".join(passed_over[provider.name] for provider in found.here)
            )
        return cls(asked=choice, providers=tuple(eligible), passed_over=passed_over)

    @property
    def needs_trial(self) -> bool:
        return len(self.providers) > 1

    def select_without_trial(self) -> ProviderSelection:
        (only,) = self.providers
        by_name = self.asked == only.name
        why = "asked for by name" if by_name else "there is no other provider here: no trial"
        return self._selection(dict.fromkeys(TOWERS, (only.name, why)), ())

    def select(self, trials: Sequence[Trial]) -> ProviderSelection:
        chosen = {
            tower: self._choose(tower, [trial for trial in trials if trial.tower == tower])
            for tower in TOWERS
        }
        return self._selection(chosen, trials)

    def _choose(self, tower: Tower, trials: Sequence[Trial]) -> tuple[str, str]:
        batch = _DECIDING_BATCH[tower]
        passed = {trial.provider: trial.images_per_s[batch] for trial in trials if trial.passed}
        reference = next(
            (trial for trial in trials if PROVIDERS[trial.provider].is_reference), None
        )
        if reference is not None and not reference.passed:
            if not reference.died:
                raise BundleError(
                    f"the CPU itself does not compute this bundle's golden {tower} vectors: "
                    f"{reference.reason}; export the model again"
                )
            # Too busy a machine, or too little memory: no ground to trust anything else.
            return reference.provider, f"its own trial {reference.reason}"
        if not passed:
            reasons = "; ".join(f"{trial.provider} {trial.reason}" for trial in trials)
            raise ProviderUnavailable(
                f"provider {self.asked!r} failed its trial on {tower}s: {reasons}; "
                f"to try again: warmclip doctor --retry-provider {self.asked}"
            )
        best = max(passed, key=lambda name: passed[name])
        if reference is not None and passed[best] < _WORTH_IT * passed[reference.provider]:
            best = reference.provider
        unit = "images/s" if tower == "image" else "texts/s"
        others = [f"{name} {rate:.0f}" for name, rate in passed.items() if name != best]
        others += [f"{trial.provider} {trial.reason}" for trial in trials if not trial.passed]
        return best, f"{passed[best]:.0f} {unit} at batch {batch}; {'; '.join(others)}"

    def _selection(
        self, chosen: dict[Tower, tuple[str, str]], trials: Sequence[Trial]
    ) -> ProviderSelection:
        return ProviderSelection(
            asked=self.asked,
            chosen={tower: name for tower, (name, _) in chosen.items()},
            why={tower: why for tower, (_, why) in chosen.items()},
            trials=tuple(trials),
            passed_over=self.passed_over,
        )


def _obstacle(provider: Provider, bundle: ModelBundle, quarantine: Quarantine) -> str | None:
    """Why a provider is not even tried."""
    record = quarantine.find(provider.name)
    if record is not None:
        return (
            f"provider {provider.name!r} is in quarantine until {record.until}: {record.reason}; "
            f"to try it again now: warmclip doctor --retry-provider {provider.name}"
        )
    lacks = (bundle.lacks(tower, provider.precision) for tower in TOWERS)
    lack = next((lack for lack in lacks if lack is not None), None)
    return None if lack is None else f"provider {provider.name!r} cannot serve: {lack}"
