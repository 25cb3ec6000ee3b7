"""Models, and what each provider makes of them, tried once for all tests of this tier."""

from functools import cache
from pathlib import Path

import pytest

from apple.machine import GPU, VARIANTS, gpu_fault, missing, why_not
from apple.table import TablePrinter
from warmclip.errors import ProviderUnavailable
from warmclip.inference.bundle import ModelBundle, Tower
from warmclip.inference.ort.loading import find_provider
from warmclip.inference.providers import PROVIDERS
from warmclip.inference.selection.provider_selection import TOWERS
from warmclip.inference.selection.trial import Trial
from warmclip.inference.selection.trial_process import run_trial
from warmclip_export.catalog import resolve_model

DEADLINE_S = 900.0  # for one provider on one tower: a virtual Mac compiles slowly


def pytest_configure(config: pytest.Config) -> None:
    """Register the table."""
    config.pluginmanager.register(TablePrinter(), "apple-table")


@pytest.fixture(scope="session", autouse=True)
def apple_silicon() -> None:
    """Skip on other machines; on this one, everything that the tier needs must be there."""
    if reason := why_not():
        pytest.skip(reason)
    for name in VARIANTS:
        try:
            find_provider(name)
        except ProviderUnavailable as exc:
            missing(str(exc))


class Trials:
    """Each provider tried once on each tower; what CoreML compiles is kept in one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.of = cache(self._of)

    def again(self, bundle: ModelBundle, provider: str, tower: Tower) -> Trial:
        """Try once more, in a process of its own."""
        return run_trial(
            bundle,
            PROVIDERS[provider],
            tower,
            home=self.home,
            threads=0,
            deadline_s=DEADLINE_S,
        )

    def refusal(self, bundle: ModelBundle, provider: str) -> str | None:
        """Why a provider may not serve a model here; None if it may."""
        for tower in TOWERS:
            trial = self.of(bundle, provider, tower)
            if not trial.passed:
                return f"{provider} did not pass its trial on {tower}s: {trial.reason}"
        return None

    def require(self, bundle: ModelBundle, provider: str) -> None:
        """Skip what a provider that may not serve cannot show; its own trial's row says why."""
        if reason := self.refusal(bundle, provider):
            pytest.skip(reason)

    def best(self, bundle: ModelBundle) -> str:
        """The first variant that may serve a model."""
        reasons = [self.refusal(bundle, name) for name in VARIANTS]
        passed = [name for name, reason in zip(VARIANTS, reasons, strict=True) if reason is None]
        assert passed, reasons
        return passed[0]

    def _of(self, bundle: ModelBundle, provider: str, tower: Tower) -> Trial:
        return self.again(bundle, provider, tower)


@pytest.fixture(scope="session")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """The trials of this session."""
    home = tmp_path_factory.mktemp("apple") / "home"
    home.mkdir(mode=0o700)
    return Trials(home)


@pytest.fixture(scope="session")
def demo(demo_bundle: Path) -> ModelBundle:
    """The small model, whose vectors mean something."""
    return ModelBundle.open(demo_bundle)


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """A ViT-B-32 of full size; its weights are random, which costs as much."""
    from warmclip_export.exporter import export_model

    folder = tmp_path_factory.mktemp("models") / "ViT-B-32-random-0"
    recipe = resolve_model("ViT-B-32", "random:0")
    return export_model(recipe, folder, force=False, step=lambda _what: None).bundle


@pytest.fixture(params=["demo", "full"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    """Either model."""
    found: ModelBundle = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """A provider."""
    return str(request.param)


@pytest.fixture(params=TOWERS)
def tower(request: pytest.FixtureRequest) -> Tower:
    """Image or text."""
    found: Tower = request.param
    return found


@pytest.fixture
def gpu() -> str:
    """The GPU as torch names it, where it computes; a virtual Mac may have none that does."""
    if fault := gpu_fault():
        pytest.skip(f"torch does not compute on {GPU} here: {fault}")
    return GPU
