"""A horse that loads what it is told to, for whoever chooses its models."""

from types import SimpleNamespace

from warmclip.errors import ProviderUnavailable
from warmclip.work.horse.models import ModelChoice


class ChoosingHorse:
    """What a follower needs of a ``WarmHorse``.

    Attributes:
        loaded: what it has loaded, each time.
        cannot: the fingerprint of a model that it cannot load.
    """

    def __init__(self, *models: str, cannot: str = "") -> None:
        """It is ready.

        Args:
            models: the fingerprints that it has.
            cannot: the fingerprint of one that it cannot load.
        """
        self.choice = ModelChoice()
        self.ready = SimpleNamespace(models=models)
        self.loaded: list[tuple[str, ...]] = []
        self.cannot = cannot

    def choose(self, choice: ModelChoice) -> None:
        """See ``WarmHorse.choose``."""
        self.choice = choice

    def ensure(self) -> None:
        """Load what was chosen."""
        if self.cannot in self.choice.wanted:
            raise ProviderUnavailable("it is broken")
        if self.choice.wanted != self.ready.models:
            self.loaded.append(self.choice.wanted)
            self.ready.models = self.choice.wanted
